"""Points that learn the perception of other points: perception coherence without a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.rng import keyed_generator
from congruence.data.datasets.toys import Toy
from congruence.losses import perception_coherence_loss
from congruence.metrics import global_perception_coherence

_CHECKS: dict[str, check.Constraint] = {
    "batch": check.Real(low=2, closed="low", integer=True),
    "epochs": check.COUNT,
    "lr": check.POSITIVE,
    "temperature": check.POSITIVE,
    "student_scale": check.POSITIVE,
    "frames": check.Real(low=2, closed="low", integer=True),
    "seed": check.Real(low=0, closed="low", integer=True),
}


@dataclass(frozen=True, eq=False)
class Transfer:
    """The result of `transfer`.


    Args:
        toy: the teacher's points.
        batch: the batch size.
        frames: (epoch, the student's points [N, 2] after that epoch), from epoch 0 to the end.
        before: global perception coherence at the random start.
        after: global perception coherence at the end.
    """

    toy: Toy
    batch: int
    frames: tuple[tuple[int, Tensor], ...]
    before: float
    after: float


def transfer(
    toy: Toy,
    *,
    batch: int = 64,
    epochs: int = 800,
    lr: float = 0.1,
    temperature: float = 0.1,
    student_scale: float = 10.0,
    frames: int = 40,
    seed: int = 0,
    report: Callable[[int], None] | None = None,
) -> Transfer:
    """Minimise the perception coherence loss over random points in the plane, one for each of the teacher's points.


    Args:
        toy: the teacher's points.
        batch: points in a batch; a new order is drawn every epoch.
        epochs: passes over the points.
        lr: learning rate of Adam.
        temperature: τ of both sides' soft ranks; distances are Euclidean.
        student_scale: deviation of the Gaussian from which the student's points are drawn.
        frames: how many states are kept, closer together at the beginning, where most happens.
        seed: of the start and of the orders.
        report: called with the number of each finished epoch.

    Returns:
        The states, and the coherence before and after.

    Raises:
        ValueError: for a number out of its range.

    Example:
        >>> from congruence.data.datasets.toys import toy
        >>> run = transfer(toy("clusters"), epochs=3, frames=2)
        >>> [epoch for epoch, _ in run.frames], run.after > run.before
        ([0, 3], True)

    Reference:
        Feature Representation Transferring to Lightweight Models via Perception Coherence, sec. 5.1 and app. E.1, whose
        values are the defaults; figs. 7 and 8 compare batches of 3, 7 and 15.
    """
    given = {"batch": batch, "epochs": epochs, "lr": lr, "temperature": temperature}
    given |= {"student_scale": student_scale, "frames": frames, "seed": seed}
    check.hyperparameters("transfer", _CHECKS, **given)
    generator = keyed_generator(seed)
    teacher = toy.points
    student = torch.randn(len(teacher), 2, generator=generator).mul_(student_scale).requires_grad_()
    optimizer = torch.optim.Adam([student], lr=lr)
    shown_epochs = {round(epochs * (k / (frames - 1)) ** 2) for k in range(frames)}
    states = [(0, student.detach().clone())]
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(teacher), generator=generator).split(batch):
            loss = perception_coherence_loss(
                student[rows],
                teacher[rows],
                dissimilarity="euclidean",
                student_temperature=temperature,
                teacher_temperature=temperature,
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch in shown_epochs:
            states.append((epoch, student.detach().clone()))
        if report is not None:
            report(epoch)
    before, after = (global_perception_coherence(states[k][1], teacher, dissimilarity="euclidean") for k in (0, -1))
    return Transfer(toy, batch, tuple(states), before, after)
