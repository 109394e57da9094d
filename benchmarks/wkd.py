"""WKD of logits with the labels, forward and backward, beside the released form: a cost matrix for each sample.

python benchmarks/wkd.py
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from interleaved import medians
from record import figure, write
from torch import Tensor

from congruence.losses import class_cost_matrix, wasserstein_logit_loss

TEMPERATURE, REGULARIZATION, ITERATIONS, WEIGHT = 8.0, 0.05, 10, 600.0
SAMPLES, WIDTH = 16, 64  # of each class, that the costs are of
SIZES = {(64, 100): 0.2, (256, 100): 0.2, (16, 1000): 0.2}
DEFINITION = (
    "ours / per sample, medians of interleaved calls, processor seconds of one thread; per sample: in float32, a cost "
    "matrix for each sample without the row and the column of its label, and products of a batch of matrices with a "
    "batch of vectors; ours: in float64, one kernel of all classes, in which the label's has no share"
)


def per_sample(student: Tensor, teacher: Tensor, cost: Tensor, labels: Tensor) -> Tensor:
    """The released form: each sample has costs of its own, C − 1 by C − 1."""
    batch, classes = student.shape
    own = labels[:, None]
    sure = teacher.softmax(1).gather(1, own).detach()
    of_label = -(sure * student.log_softmax(1).gather(1, own)).mean()
    others = torch.ones(batch, classes, dtype=torch.bool).scatter(1, own, False)
    source, target = (
        (side[others].view(batch, -1) / TEMPERATURE).softmax(1).unsqueeze(2) for side in (student, teacher)
    )
    both = others[:, :, None] & others[:, None, :]
    costs = cost.repeat(batch, 1, 1)[both].view(batch, classes - 1, classes - 1).relu() + 1e-8
    kernel = (-costs / REGULARIZATION).exp()
    u = torch.full_like(source, 1 / (classes - 1))
    for _ in range(ITERATIONS):
        v = target / (kernel.mT @ u + 1e-8)
        u = source / (kernel @ v + 1e-8)
    return of_label + WEIGHT * (u * kernel * v.mT * costs).sum((1, 2)).mean()


def ours(student: Tensor, teacher: Tensor, cost: Tensor, labels: Tensor) -> Tensor:
    return wasserstein_logit_loss(
        student,
        teacher,
        cost,
        labels=labels,
        weight=WEIGHT,
        temperature=TEMPERATURE,
        regularization=REGULARIZATION,
        iterations=ITERATIONS,
    )


def compared(batch: int, classes: int, bar: float, rounds: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    cost = class_cost_matrix(torch.randn(classes, SAMPLES, WIDTH, generator=generator))
    student, teacher = (4 * torch.randn(batch, classes, generator=generator) for _ in range(2))
    labels = torch.randint(classes, (batch,), generator=generator)
    student.requires_grad_()

    def step(form: Any) -> tuple[Tensor, Tensor]:
        value = form(student, teacher, cost, labels)
        (gradient,) = torch.autograd.grad(value, student)
        return value.detach(), gradient

    times = medians({"ours": lambda: step(ours), "theirs": lambda: step(per_sample)}, rounds)
    (value, gradient), (usual, of_usual) = step(ours), step(per_sample)
    return figure(
        f"B={batch}, {classes} classes",
        times["ours"] / times["theirs"],
        bar,
        milliseconds=round(1e3 * times["ours"], 2),
        per_sample_milliseconds=round(1e3 * times["theirs"], 2),
        value_off=float(f"{(value / usual - 1).abs().item():.2e}"),
        gradient_off=float(f"{((gradient - of_usual).norm() / of_usual.norm()).item():.2e}"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved pairs")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    figures = [compared(*size, bar, rounds) for size, bar in SIZES.items()]
    write("wkd", DEFINITION, figures, temperature=TEMPERATURE, iterations=ITERATIONS, rounds=rounds)


if __name__ == "__main__":
    main()
