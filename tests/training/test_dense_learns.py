"""Where two images are labelled, a student learns more of pixels, and of which bars there are, with its teacher."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

import congruence as cg
from congruence.metrics import mean_average_precision, mean_iou

SIZE, COUNT = 10, 128
GAIN = 0.02


def drawn(seed):
    """Noisy images of bars: 1 for what is horizontal, 2 for what is vertical."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.zeros(COUNT, SIZE, SIZE, dtype=torch.int64)
    for image in classes:
        down, right, start = torch.randint(1, SIZE - 4, (3,), generator=generator).tolist()
        kinds = int(torch.randint(1, 4, (), generator=generator))
        if kinds & 1:
            image[down, start : start + 4] = 1
        if kinds & 2:
            image[start : start + 4, right] = 2
    noise = 0.3 * torch.randn(COUNT, SIZE, SIZE, generator=generator)
    return ((classes > 0).float() + noise)[:, None], classes


class Pixels(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.up, self.classes = nn.ConvTranspose2d(width, width, 2, stride=2), nn.Conv2d(2 * width, 3, 3, padding=1)

    def forward(self, x):
        fine = self.fine(x)
        return self.classes(torch.cat([fine, self.up(self.deep(fine))], 1))


class Bars(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 5, padding=2), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten()
        )
        self.labels = nn.Linear(width, 2)

    def forward(self, x):
        return self.labels(self.body(x))


def trained(teacher, student, terms, x, y, epochs):
    distiller = cg.Distiller(teacher, student, terms, example=x[:2])
    optimizer = cg.OptimizerOptions("adamw", lr=1e-2)
    options = cg.FitOptions(epochs=epochs, device="cpu", optimizer=optimizer, gradient_norms=False)
    cg.fit(distiller, cg.data.loader(TensorDataset(x, y), batch_size=16), None, options)
    return student.eval()


def gain(model, key, term, labels, metric):
    """How much more a student of few labels knows by a term than alone, by as many steps."""
    (x, y), (test, wanted) = drawn(1), drawn(2)
    y, wanted = labels(y), labels(wanted)
    torch.manual_seed(0)
    teacher = trained(None, model(12), [key], x, y, 15)
    few = torch.full_like(y, -1)
    few[:3] = y[:3]
    found = []
    for with_teacher in (False, True):
        torch.manual_seed(1)
        student = model(4)
        if with_teacher:
            trained(teacher, student, [key, term], x, few, 10)
        else:
            trained(None, student, [key], x[:3], y[:3], 80)
        with torch.no_grad():
            found.append(metric(student(test), wanted))
    with torch.no_grad():
        assert metric(teacher.eval()(test), wanted) > found[0]
    return found[1] - found[0]


def test_pixels():
    for term in (cg.Term("kd", temperature=1.0, weight=5.0), cg.Term("dist")):
        assert gain(Pixels, "ce", term, lambda classes: classes, mean_iou) > GAIN


def test_several_labels():
    def bars(classes):
        return torch.stack([(classes == kind).flatten(1).any(1) for kind in (1, 2)], 1).long()

    assert gain(Bars, "bce", cg.Term("sigmoid_kd"), bars, mean_average_precision) > GAIN
