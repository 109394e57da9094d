"""Validation by labels of positions, soft labels and several labels; and by the loss where labels are none of these."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from _harness.losses import seeded
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import congruence as cg
from congruence import Distiller, Term
from congruence.metrics import macro_f1, mean_average_precision, mean_iou
from congruence.training.validate import rehearse, validate

CPU = torch.device("cpu")


def segmenter(seed, classes=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, classes, 1))


def net(seed, classes=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, classes))


def batches(*tensors, size=3):
    return list(zip(*(tensor.split(size) for tensor in tensors), strict=True))


def test_positions_have_accuracy_mean_iou_and_loss():
    x = torch.randn(8, 1, 5, 5, generator=seeded())
    labels = torch.randint(-1, 3, (8, 5, 5), generator=seeded(1))
    distiller = Distiller(segmenter(1), segmenter(2), ["ce", "kd"], example=x[:2])
    loader = batches(x, labels)
    numbers = validate(distiller, loader, CPU)
    logits = distiller.student(x)
    rows, flat = logits.movedim(1, -1).reshape(-1, 3), labels.flatten()
    counted = flat >= 0
    assert list(numbers) == ["accuracy", "loss", "mean_iou"] == rehearse(distiller, loader, CPU)
    right = (rows.argmax(1) == flat)[counted].double().mean().item()
    assert numbers["accuracy"] == pytest.approx(right)
    assert numbers["loss"] == pytest.approx(F.cross_entropy(rows, flat, ignore_index=-1).item(), rel=1e-5)
    assert numbers["mean_iou"] == pytest.approx(mean_iou(logits.detach(), labels))


class Tagger(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.classes = nn.Embedding(9, 5), nn.Linear(5, 3)

    def forward(self, ids, attention_mask):
        return {"logits": self.classes(self.embed(ids))}


def test_positions_that_the_mask_leaves_out_are_not_validated():
    ids, labels = (torch.randint(0, n, (4, 6), generator=seeded(n)) for n in (9, 3))
    mask = (torch.arange(6) < torch.tensor([6, 2, 3, 5])[:, None]).long()
    distiller = Distiller(None, Tagger(1), ["ce"], example={"ids": ids, "attention_mask": mask})
    numbers = validate(distiller, [({"ids": ids, "attention_mask": mask}, labels)], CPU)
    logits = distiller.student(ids, mask)["logits"]
    real = mask.bool()
    assert numbers["accuracy"] == pytest.approx((logits.argmax(2) == labels)[real].double().mean().item())
    assert numbers["loss"] == pytest.approx(F.cross_entropy(logits[real], labels[real]).item(), rel=1e-5)


def test_a_layout_that_a_term_names_is_that_of_validation():
    class Last(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.inner = segmenter(seed)

        def forward(self, x):
            return self.inner(x).permute(0, 2, 3, 1).square() - 0.5

    x, labels = torch.randn(4, 1, 3, 3, generator=seeded()), torch.randint(0, 3, (4, 3, 3), generator=seeded(1))
    distiller = Distiller(None, Last(1), [Term("ce", layout="BHWC")], example=x[:2])
    numbers = validate(distiller, batches(x, labels), CPU)
    right = (distiller.student(x).argmax(3) == labels).double().mean().item()
    assert numbers["accuracy"] == pytest.approx(right)


def test_soft_labels_count_as_their_largest_entry():
    x, soft = torch.randn(8, 6, generator=seeded()), torch.randn(8, 4, generator=seeded(1)).softmax(1)
    soft[3] = -1
    distiller = Distiller(None, net(1), ["ce"], example=x[:2])
    numbers = validate(distiller, batches(x, soft), CPU)
    kept = [0, 1, 2, 4, 5, 6, 7]
    logits = distiller.student(x)[kept]
    assert numbers["accuracy"] == pytest.approx((logits.argmax(1) == soft[kept].argmax(1)).double().mean().item())
    assert numbers["loss"] == pytest.approx(F.cross_entropy(logits, soft[kept]).item(), rel=1e-5)


def test_several_labels_have_average_precision_and_f1():
    x, labels = torch.randn(9, 6, generator=seeded()), torch.randint(-1, 2, (9, 4), generator=seeded(1))
    distiller = Distiller(net(2), net(1), ["bce", "sigmoid_kd"], example=x[:2])
    for given in (labels, labels.float()):
        numbers = validate(distiller, batches(x, given), CPU)
        logits = distiller.student(x).detach()
        assert list(numbers) == ["map", "f1", "loss"] == rehearse(distiller, batches(x, given), CPU)
        assert numbers["map"] == pytest.approx(mean_average_precision(logits, labels))
        assert numbers["f1"] == pytest.approx(macro_f1(logits, labels))
        losses = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0).float(), reduction="none")
        assert numbers["loss"] == pytest.approx(losses[labels >= 0].mean().item(), rel=1e-5)


def test_a_mask_of_one_class_has_f1():
    x, labels = torch.randn(4, 1, 5, 5, generator=seeded()), torch.randint(0, 2, (4, 5, 5), generator=seeded(1))
    distiller = Distiller(segmenter(2, 1), segmenter(1, 1), ["bce", "sigmoid_kd"], example=x[:2])
    out = distiller(x, labels)
    logits = distiller.student(x)
    torch.testing.assert_close(out.terms["bce"], F.binary_cross_entropy_with_logits(logits[:, 0], labels.float()))
    for given in (labels, labels[:, None]):
        numbers = validate(distiller, batches(x, given), CPU)
        assert list(numbers) == ["f1", "loss"]
        assert numbers["f1"] == pytest.approx(macro_f1(logits.detach().view(-1, 1), labels.view(-1, 1)))


def test_a_student_that_says_no_numbers_is_not_measured():
    x = torch.randn(4, 1, 5, 5, generator=seeded())
    student = segmenter(1)
    student[0].weight.data.fill_(math.nan)
    distiller = Distiller(None, student, ["ce"], example=x[:2])
    numbers = validate(distiller, batches(x, torch.zeros(4, 5, 5).long()), CPU)
    assert all(math.isnan(value) for value in numbers.values())
    student = net(1)
    distiller = Distiller(None, student, ["bce"], example=torch.randn(2, 6))
    student[0].weight.data.fill_(math.nan)
    numbers = validate(distiller, [(torch.randn(2, 6), torch.eye(4)[:2])], CPU)
    assert all(math.isnan(value) for value in numbers.values())


def test_labels_that_no_term_reads_may_be_anything(caplog):
    x, boxes = torch.randn(6, 6, generator=seeded()), torch.rand(6, 7, 5)
    distiller = Distiller(net(2), net(1), ["kd"], example=x[:2])
    loader = batches(x, boxes)
    with caplog.at_level(logging.INFO, "congruence"):
        assert rehearse(distiller, loader, CPU) == ["loss"]
    assert "The labels (float32 [3, 7, 5]) are none of the logits" in caplog.text
    expected = cg.losses.distillation_loss(distiller.student(x), distiller.teacher.module(x)).item()
    assert validate(distiller, loader, CPU) == {"loss": pytest.approx(0.9 * expected, rel=1e-5)}
    read = Distiller(net(2), net(1), ["ce", "kd"], example=x[:2])
    with pytest.raises(ValueError, match=r"^`validation`: `labels` must be a 1-D integer tensor of class labels"):
        validate(read, loader, CPU)


def test_the_epoch_of_the_best_average_precision_is_the_best():
    x, labels = torch.randn(24, 6, generator=seeded()), torch.randint(0, 2, (24, 4), generator=seeded(1))
    distiller = Distiller(net(2), net(1), ["bce", "sigmoid_kd"], example=x[:2])
    data = cg.data.loader(TensorDataset(x, labels), batch_size=8)
    result = cg.fit(distiller, data, data, cg.FitOptions(epochs=3, device="cpu"))
    assert set(result.best["student"]) == {"map", "f1", "loss"}
    assert result.best_epoch["student"] >= 0
