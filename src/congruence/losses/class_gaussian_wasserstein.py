"""Class-conditional Gaussian Wasserstein distance: a Gaussian for each class on both sides."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island, safe_sqrt
from congruence.geometry.gaussian import COVARIANCE, Covariance, padded_gaussian_wasserstein
from congruence.geometry.plans import Integers, shared_classes

CHECKS: Mapping[str, check.Constraint] = {"covariance": COVARIANCE}


@float32_island
def class_gaussian_wasserstein_loss(
    student: Tensor,
    teacher: Tensor,
    student_labels: Tensor,
    teacher_labels: Tensor,
    *,
    covariance: Covariance = "diagonal",
) -> Tensor:
    """Squared 2-Wasserstein distance between the Gaussians of each class, averaged over the classes on both sides.

    L = (1/K) Σ_c ‖μ_s,c − μ_t,c‖² + ‖σ_s,c − σ_t,c‖², deviations with 1/n_c; for "full" the second term is the Bures
    distance of the covariances, as in `gaussian_wasserstein_loss`. 0 with zero gradient if no class is on both sides.

    Shape:
        `student` [n, D], `teacher` [m, D], `student_labels` [n], `teacher_labels` [m], sizes may differ; returns [].

    Args:
        student: embeddings.
        teacher: embeddings.
        student_labels: integer classes of the student's rows; a row with a negative label is left out.
        teacher_labels: integer classes of the teacher's rows, used likewise.
        covariance: "diagonal" or "full" (classes of similar size share one batched decomposition).

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit, or an unknown covariance.

    Example:
        >>> import torch
        >>> student, labels = torch.tensor([[0.0], [2.0], [7.0]]), torch.tensor([0, 0, 1])
        >>> class_gaussian_wasserstein_loss(student, student[[0, 2]], labels, torch.tensor([0, 1])).item()
        1.0

    Reference:
        Montesuma, KD²M: An Unifying Framework for Feature Knowledge Distillation, 2025, eq. 5 within eq. 3.

    Deviations:
        The mean is over the classes that both sides hold, not over all n_c, as eq. 3 has it (`class_wasserstein_loss`
        offers both). A class of one sample has deviations 0,
        whose gradient is 0: only its mean is matched.
    """
    name = "class_gaussian_wasserstein_loss"
    check.floating(name, 2, student=student, teacher=teacher)
    check.same_width(name, student=student, teacher=teacher)
    check.class_labels(name, student_labels=student_labels, teacher_labels=teacher_labels)
    check.same_rows(name, student=student, student_labels=student_labels)
    check.same_rows(name, teacher=teacher, teacher_labels=teacher_labels)
    check.hyperparameters(name, CHECKS, covariance=covariance)
    dtype = student.dtype
    student, teacher = as_float64(student), as_float64(teacher)
    # Rows of classes that one side lacks are not used otherwise; non-finite values in them must show.
    shown = 0 * (student.detach().sum() + teacher.detach().sum())
    if covariance == "full":
        return (_full(student, teacher, student_labels, teacher_labels) + shown).to(dtype)
    # One slot for each class, at the student's first row of it, so that shapes do not depend on the labels.
    same = student_labels[:, None] == student_labels[None, :]
    first = same.to(torch.int32).argmax(1) == torch.arange(len(student_labels), device=student.device)
    student_slots = same & first[:, None] & (student_labels >= 0)
    teacher_slots = (student_labels[:, None] == teacher_labels[None, :]) & first[:, None] & (teacher_labels >= 0)
    both = student_slots.any(1) & teacher_slots.any(1)
    student_means, student_deviations = _moments(student, student_slots)
    teacher_means, teacher_deviations = _moments(teacher, teacher_slots)
    apart = (student_means - teacher_means).square() + (student_deviations - teacher_deviations).square()
    return (apart.sum(1).masked_fill(~both, 0).sum() / both.sum().clamp(min=1) + shown).to(dtype)


def _moments(x: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Return means and deviations by slot, from members [slots, rows]; 0 for an empty slot."""
    membership = slots.to(x.dtype)
    weights = membership / membership.sum(1, keepdim=True).clamp(min=1)
    means = weights @ x
    centred = x - membership.T @ means
    return means, safe_sqrt(weights @ centred.square())


def _full(student: Tensor, teacher: Tensor, student_labels: Tensor, teacher_labels: Tensor) -> Tensor:
    labels = student_labels.cpu().numpy(), teacher_labels.cpu().numpy()
    rows, columns, (top, bottom), (left, right) = shared_classes(*labels)
    if not len(top):
        return 0 * (student.sum() + teacher.sum())
    height, width = bottom - top, right - left
    doublings, values = np.frexp(np.maximum(height, width))[1], []
    for of_size in np.unique(doublings):  # classes of similar size are decomposed together
        some = doublings == of_size
        ours, theirs = (
            _padded(student, rows, top[some], height[some]),
            _padded(teacher, columns, left[some], width[some]),
        )
        values.append(padded_gaussian_wasserstein(ours[0], theirs[0], ours[1], theirs[1]))
    return torch.cat(values).mean()


def _padded(x: Tensor, order: Integers, start: Integers, counts: Integers) -> tuple[Tensor, Tensor]:
    """Return rows [G, n, D] of the classes that begin at `start`, each padded with its first row, and the counts."""
    position = np.arange(counts.max())
    index = order[start[:, None] + position * (position < counts[:, None])]
    return x[torch.from_numpy(index).to(x.device)], torch.from_numpy(counts).to(x.device)


class ClassGaussianWassersteinLoss(nn.Module):
    """`class_gaussian_wasserstein_loss` with its hyper-parameters stored."""

    def __init__(self, *, covariance: Covariance = "diagonal") -> None:
        super().__init__()
        check.hyperparameters("ClassGaussianWassersteinLoss", CHECKS, covariance=covariance)
        self.covariance: Covariance = covariance

    def forward(self, student: Tensor, teacher: Tensor, student_labels: Tensor, teacher_labels: Tensor) -> Tensor:
        """Return the loss of `student` [n, D] and `teacher` [m, D] with the labels of their rows."""
        return class_gaussian_wasserstein_loss(
            student, teacher, student_labels, teacher_labels, covariance=self.covariance
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"covariance={self.covariance!r}"
