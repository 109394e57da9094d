"""`distill` on labels of positions, on soft ones and on several a sample."""

from __future__ import annotations

import torch
from _harness.losses import seeded
from torch import nn
from torch.utils.data import TensorDataset

import congruence as cg
from congruence.pipeline import quick


def segmenter(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 1))


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))


def test_positions():
    data = TensorDataset(torch.randn(40, 1, 4, 4, generator=seeded()), torch.randint(0, 3, (40, 4, 4)))
    done = cg.distill(segmenter(1), segmenter(2), data, "kd", epochs=1, batch_size=8, device="cpu")
    assert list(done.result.best["student"]) == ["accuracy", "loss", "mean_iou"]
    assert done.report.student_accuracy is None


def test_several_labels_have_a_binary_cross_entropy():
    data = TensorDataset(torch.randn(40, 6, generator=seeded()), torch.randint(0, 2, (40, 4)))
    done = cg.distill(net(1), net(2), data, "sigmoid_kd", epochs=1, batch_size=8, device="cpu")
    assert list(done.result.best["student"]) == ["map", "f1", "loss"]
    assert quick.label_term(["sigmoid_kd"]) == {"key": "bce", "weight": 1.0}
    assert quick.label_term(["bce", "sigmoid_kd"]) is None


def test_soft_labels():
    data = TensorDataset(torch.randn(40, 6, generator=seeded()), torch.rand(40, 4).softmax(1))
    done = cg.distill(net(1), net(2), data, "kd", epochs=1, batch_size=8, device="cpu")
    assert list(done.result.best["student"]) == ["accuracy", "loss"]
