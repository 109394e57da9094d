"""Joint Wasserstein distance: optimal transport with a cost of features and predictions together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island
from congruence.geometry.dissimilarity import euclidean
from congruence.geometry.transport import squared_transport_cost, transport_cost, transport_plan

LabelCost = Literal["squared_euclidean", "euclidean", "cross_entropy"]
CHECKS: Mapping[str, check.Constraint] = {
    "beta": check.NOT_NEGATIVE,
    "label_cost": check.Choice(("squared_euclidean", "euclidean", "cross_entropy")),
}
_LEAST_LOG = -100.0


@float32_island
def joint_wasserstein_loss(
    student: Tensor,
    teacher: Tensor,
    student_targets: Tensor,
    teacher_targets: Tensor,
    *,
    beta: float = 1.0,
    label_cost: LabelCost = "squared_euclidean",
) -> Tensor:
    """Squared 2-Wasserstein distance between two batches of features and targets together.

    L = min_P Σ_ij P_ij (‖f_i^s − f_j^t‖² + β c(y_i, y'_j)) over plans P >= 0 with row sums 1/n and column sums 1/m,
    where c = ‖y_i − y'_j‖² for "squared_euclidean", ‖y_i − y'_j‖ for "euclidean" (gradient 0 where they are equal) and
    −Σ_k y'_jk max(log y_ik, −100) for "cross_entropy", y the student's targets and y' the teacher's. P is computed in
    float64 and constant for the gradient.

    Shape:
        `student` [n, D], `teacher` [m, D], `student_targets` [n, C], `teacher_targets` [m, C], batch sizes may differ;
        returns [].

    Args:
        student: embeddings.
        teacher: embeddings.
        student_targets: probabilities, or one-hot rows; they get gradient.
        teacher_targets: probabilities, or one-hot rows.
        beta: β >= 0.
        label_cost: "squared_euclidean", "euclidean" or "cross_entropy".

    Returns:
        The loss, in float32 or float64; NaN if an input is not finite.

    Raises:
        ValueError: for shapes that do not fit, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> features, targets = torch.zeros(2, 1), torch.eye(2)
        >>> joint_wasserstein_loss(features, features, targets, targets.flip(0)).item()  # another order
        0.0
        >>> joint_wasserstein_loss(features, features, targets, targets[[0, 0]], beta=3.0).item()
        3.0

    Reference:
        Montesuma, KD²M: An Unifying Framework for Feature Knowledge Distillation, 2025, eq. 4.

    Deviations:
        Equation 4 compares predictions on both sides, h(z) and h(z'), while the paper's Algorithm 1 also passes the
        true labels. The function takes either; the method "joint_wasserstein" follows the equation, with the softmax of
        each network's logits, and needs no labels. The label cost "euclidean" is the paper's term; the default is its
        square, like the cost of the features (the first version of this library called the square "euclidean"). With
        "cross_entropy", the loss is not 0 for a student equal to the teacher. A probability so small that the gradient
        1/y of its logarithm would overflow has gradient 0.
    """
    name = "joint_wasserstein_loss"
    check.floating(name, 2, student=student, teacher=teacher)
    check.floating(name, 2, student_targets=student_targets, teacher_targets=teacher_targets)
    check.same_width(name, student=student, teacher=teacher)
    check.same_width(name, student_targets=student_targets, teacher_targets=teacher_targets)
    check.same_rows(name, student=student, student_targets=student_targets)
    check.same_rows(name, teacher=teacher, teacher_targets=teacher_targets)
    check.hyperparameters(name, CHECKS, beta=beta, label_cost=label_cost)
    ours, theirs = as_float64(student_targets), as_float64(teacher_targets)
    if label_cost == "squared_euclidean":
        labels = euclidean(ours, theirs).square()
    elif label_cost == "euclidean":
        labels = euclidean(ours, theirs)
    else:
        labels = -_log(ours, torch.finfo(student_targets.dtype).tiny) @ theirs.T
    dtype = student.dtype
    student, teacher = as_float64(student), as_float64(teacher)
    squares, labels = euclidean(student.detach(), teacher.detach()).square(), beta * labels
    plan = transport_plan(squares + labels)
    return (squared_transport_cost(plan, squares, student, teacher) + transport_cost(plan, labels)).to(dtype)


def _log(probabilities: Tensor, smallest: float) -> Tensor:
    """Logarithm, clamped at -100, with gradient 0 below that and where 1/y would overflow the input's dtype."""
    floor = math.exp(_LEAST_LOG)
    steep = probabilities < max(smallest, floor)
    constant = probabilities.detach().clamp(min=floor).log().clamp(min=_LEAST_LOG)
    return torch.where(steep, constant, probabilities.masked_fill(steep, 1).log())


class JointWassersteinLoss(nn.Module):
    """`joint_wasserstein_loss` with its hyper-parameters stored."""

    def __init__(self, *, beta: float = 1.0, label_cost: LabelCost = "squared_euclidean") -> None:
        super().__init__()
        check.hyperparameters("JointWassersteinLoss", CHECKS, beta=beta, label_cost=label_cost)
        self.beta = beta
        self.label_cost: LabelCost = label_cost

    def forward(self, student: Tensor, teacher: Tensor, student_targets: Tensor, teacher_targets: Tensor) -> Tensor:
        """Return the loss of `student` [n, D] and `teacher` [m, D] with targets [n, C] and [m, C]."""
        return joint_wasserstein_loss(
            student, teacher, student_targets, teacher_targets, beta=self.beta, label_cost=self.label_cost
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"beta={self.beta}, label_cost={self.label_cost!r}"
