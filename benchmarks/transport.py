"""The class-conditional Wasserstein losses, forward and backward, beside their plain form of a call for each class.

Last, the rows of large batches with classes beside the two forwards that a step cannot do without.

python benchmarks/transport.py
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import numpy as np
import ot
import torch
from interleaved import medians
from pair import BATCH, CLASSES, batch
from record import figure, write
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import congruence as cg
from congruence.losses import class_gaussian_wasserstein_loss, class_wasserstein_loss, joint_wasserstein_loss

WIDTH, LARGE, TEACHER, STUDENT = 128, 1024, "resnet32x4", "resnet8x4"
DEFINITION = (
    "ours / plain, medians of interleaved calls, processor seconds of one thread; plain: in float64, each class's own "
    "distances, scipy's assignment (POT where sizes differ) or torch's QR and SVD, and autograd; one batch: both sides "
    "have the same labels, as in training; two batches: labels of their own; "
    f"over the forwards: the loss of {LARGE} rows, forward and backward / the forwards of {TEACHER} and {STUDENT} of "
    f"as many images of 32x32, timed on {BATCH} images and multiplied"
)
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def by_class(loss: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """Average a loss of two batches over the classes that both have."""

    def plain(student: Tensor, teacher: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
        student, teacher = student.double(), teacher.double()
        shared = [c for c in ours.unique().tolist() if (theirs == c).any()]
        return torch.stack([loss(student[ours == c], teacher[theirs == c]) for c in shared]).mean()

    return plain


@by_class
def wasserstein(x: Tensor, y: Tensor) -> Tensor:
    """The exact problem of one class."""
    cost = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    matrix, (rows, columns) = cost.detach().numpy(), cost.shape
    if rows == columns:
        plan = np.zeros(cost.shape)
        plan[linear_sum_assignment(matrix)] = 1 / rows
    else:
        plan = ot.emd(np.full(rows, 1 / rows), np.full(columns, 1 / columns), matrix)
    return (torch.from_numpy(plan) * cost).sum()


@by_class
def gaussian(x: Tensor, y: Tensor) -> Tensor:
    """The distance of two Gaussians by the nuclear norm of the triangular factors' product."""
    means = (x.mean(0) - y.mean(0)).square().sum()
    x, y = ((side - side.mean(0)) / len(side) ** 0.5 for side in (x, y))
    (x_basis, x_factor), (y_basis, y_factor) = (torch.linalg.qr(side.detach()) for side in (x, y))
    u, values, v = torch.linalg.svd(x_factor @ y_factor.T, full_matrices=False)
    left, right = x_basis @ (u * (values > 1e-12)), y_basis @ v.T
    return means + x.square().sum() + y.square().sum() - 2 * ((x.T @ left) * (y.T @ right)).sum()


def ours_gaussian(student: Tensor, teacher: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
    return class_gaussian_wasserstein_loss(student, teacher, ours, theirs, covariance="full")


FORMS: dict[str, tuple[Loss, Loss]] = {
    "class_wasserstein": (class_wasserstein_loss, wasserstein),
    "class_gaussian_wasserstein, full": (ours_gaussian, gaussian),
}


def compared(name: str, batch: int, classes: int, paired: bool, rounds: int) -> dict[str, object]:
    """Time both forms on one batch of rows around their classes' centres."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, WIDTH, generator=generator)
    labels = [torch.randint(classes, (batch,), generator=generator) for _ in range(2)]
    if paired:
        labels[1] = labels[0]
    student, teacher = (centres[side] + torch.randn(batch, WIDTH, generator=generator) for side in labels)
    student.requires_grad_()
    times: tuple[list[float], list[float]] = ([], [])
    results: list[tuple[Tensor, Tensor]] = []
    for number in range(rounds + 1):
        for form, seconds in zip(FORMS[name], times, strict=True):
            student.grad = None
            start = time.process_time()
            value = form(student, teacher, *labels)
            value.backward()
            if number:  # the first round warms up
                seconds.append(time.process_time() - start)
            elif student.grad is not None:
                results.append((value.detach(), student.grad))
    milliseconds = [1e3 * statistics.median(values) for values in times]
    (value, gradient), (plain_value, plain_gradient) = results
    return figure(
        f"{name}, B={batch}, {classes} classes, {'one batch' if paired else 'two batches'}",
        milliseconds[0] / milliseconds[1],
        milliseconds=round(milliseconds[0], 2),
        plain_milliseconds=round(milliseconds[1], 2),
        value_off=float((value / plain_value - 1).abs()),
        gradient_off=float((gradient - plain_gradient).norm() / plain_gradient.norm()),
    )


def over_forwards(rounds: int) -> list[dict[str, object]]:
    """Time the rows with classes on a large batch beside what runs the models."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (LARGE,), generator=generator)
    centres = torch.randn(CLASSES, WIDTH, generator=generator)
    student, teacher = (centres[labels] + torch.randn(LARGE, WIDTH, generator=generator) for _ in range(2))
    student.requires_grad_()
    targets = torch.nn.functional.one_hot(labels, CLASSES).float()
    models = [cg.models.build(name, classes=CLASSES).eval() for name in (TEACHER, STUDENT)]
    images = batch()[0]

    @torch.no_grad()
    def forwards() -> None:
        for model in models:
            model(images)

    losses: dict[str, Callable[[], Tensor]] = {
        "class_wasserstein": lambda: class_wasserstein_loss(student, teacher, labels, labels),
        "class_gaussian_wasserstein, full": lambda: ours_gaussian(student, teacher, labels, labels),
        "class_gaussian_wasserstein": lambda: class_gaussian_wasserstein_loss(student, teacher, labels, labels),
        "joint_wasserstein": lambda: joint_wasserstein_loss(student, teacher, targets, targets),
    }
    calls = {name: functools.partial(lambda loss: loss().backward(), loss) for name, loss in losses.items()}
    times = medians({"forwards": forwards, **calls}, rounds)
    whole = times.pop("forwards") * LARGE / BATCH
    return [
        figure(
            f"{name}, B={LARGE}, {CLASSES} classes, over the forwards",
            taken / whole,
            1.0,
            milliseconds=round(1e3 * taken, 2),
            forwards_milliseconds=round(1e3 * whole, 1),
        )
        for name, taken in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="interleaved pairs")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    figures = [
        compared(name, batch, classes, paired, rounds)
        for name in FORMS
        for batch in (64, 256)
        for classes in (10, 100)
        for paired in (True, False)
    ]
    figures += over_forwards(max(1, rounds // 5))
    write("transport", DEFINITION, figures, width=WIDTH, rounds=rounds)


if __name__ == "__main__":
    main()
