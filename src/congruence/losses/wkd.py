"""Wasserstein distillation: transport of probability between similar classes, and Gaussians of feature maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island, rescaled, safe_sqrt
from congruence.core.reduce import REDUCTION, Reduction, reduce
from congruence.geometry.beside_label import among_all, expectation, other_logits
from congruence.geometry.maps import pooled_alike

__all__ = [
    "GaussianFeatureLoss",
    "WassersteinLogitLoss",
    "class_cost_matrix",
    "gaussian_feature_loss",
    "wasserstein_logit_loss",
]

Compared = Literal["samples", "covariances"]

COST_CHECKS: Mapping[str, check.Constraint] = {
    "sharpness": check.NOT_NEGATIVE,
    "compared": check.Choice(("samples", "covariances")),
}
CHECKS: Mapping[str, check.Constraint] = {
    "weight": check.NOT_NEGATIVE,
    "temperature": check.POSITIVE,
    "regularization": check.POSITIVE,
    "iterations": check.COUNT,
    "reduction": REDUCTION,
}
FEATURE_CHECKS: Mapping[str, check.Constraint] = {
    "grid": check.COUNT,
    "mean_weight": check.NOT_NEGATIVE,
    "eps": check.POSITIVE,
    "reduction": REDUCTION,
}
_EPS = 1e-8  # the authors' ε, added to the cost and to divisors
_AT_ONCE = 2**24  # entries of the products between classes that are in memory at once


@float32_island
def class_cost_matrix(class_features: Tensor, *, sharpness: float = 1.0, compared: Compared = "samples") -> Tensor:
    """Cost of moving probability between two classes, from the dissimilarity of their features.

    With X_i the n features of class i, columns centred: c_ij = 1 − ‖X_jᵀX_i‖²_F / (‖X_iᵀX_i‖_F ‖X_jᵀX_j‖_F), sharpened
    to 1 − exp(−κ c_ij) for κ > 0. This pairs the samples of two classes by position, which is arbitrary: another order
    within a class gives other costs. `compared="covariances"` instead uses the cosine of the covariances Σ_i = X_iᵀX_i,
    c_ij = 1 − ⟨Σ_i, Σ_j⟩ / (‖Σ_i‖_F ‖Σ_j‖_F), which does not depend on the order.

    Shape:
        `class_features` [C, n, D], n samples of each class; returns [C, C].

    Args:
        class_features: the teacher's features of training samples.
        sharpness: κ >= 0; 0 leaves the cost unchanged.
        compared: "samples", as published, or "covariances".

    Returns:
        The costs in [0, 1], 0 on the diagonal, in float32 or float64. A class whose features are all equal has the
        largest cost to every other class.

    Raises:
        ValueError: for a shape that does not fit or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> line = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
        >>> class_cost_matrix(torch.stack([line, 5 * line, line.flip(1)]), sharpness=0.0, compared="covariances")
        tensor([[0., 0., 1.],
                [0., 0., 1.],
                [1., 1., 0.]])

    Reference:
        Lv et al., Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation, NeurIPS 2024, and
        the authors' code, which has κ = 1, and 2 from ResNet-50 to MobileNetV1.

    Deviations:
        None with "samples". "covariances" is our addition.
    """
    check.floating("class_cost_matrix", 3, class_features=class_features)
    check.hyperparameters("class_cost_matrix", COST_CHECKS, sharpness=sharpness, compared=compared)
    features = as_float64(class_features)
    features = rescaled(features - features.mean(1, keepdim=True), (1, 2))
    # ‖X_jᵀX_i‖² = ⟨X_iX_iᵀ, X_jX_jᵀ⟩: both are cosines of products, those of samples or those of features.
    rows = features if compared == "samples" else features.mT
    classes, count, _ = rows.shape
    step = max(1, _AT_ONCE // (classes * count))
    products = rows.new_zeros(classes, classes)
    for start in range(0, count, step):
        block = (rows[:, start : start + step] @ rows.mT).flatten(1)
        products = products + block @ block.T
    sizes = safe_sqrt(products.diagonal())
    both = sizes[:, None] * sizes
    none = both == 0
    alike = torch.where(none, 0.0, products / torch.where(none, 1.0, both))
    cost = (1 - alike).clamp(min=0) * (1 - torch.eye(classes, dtype=rows.dtype, device=rows.device))
    if sharpness > 0:
        cost = -torch.expm1(-sharpness * cost)
    return cost.to(class_features.dtype)


@float32_island
def wasserstein_logit_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    cost: Tensor,
    *,
    labels: Tensor | None = None,
    weight: float = 1.0,
    temperature: float = 8.0,
    regularization: float = 0.05,
    iterations: int = 10,
    reduction: Reduction = "mean",
) -> Tensor:
    """Transport cost from the student's softened output to the teacher's, by a few Sinkhorn iterations.

    With a and b = softmax(z / T) of student and teacher, M = max(c, 0) + 1e-8, K = exp(−M / ε) and initially u = 1/C;
    then repeated: v = b / (Kᵀu + 1e-8), u = a / (Kv + 1e-8). ℓ_b = Σ_ij u_i K_ij v_j M_ij, differentiated through the
    iterations. With labels, p and q = softmax(z) of teacher and student: ℓ_b = −p_y log q_y + w · (the transport cost
    over the C − 1 other classes), p_y a constant; 0 if y_b < 0 (no label). "mean" is over the (labelled) rows.

    Shape:
        `student_logits` and `teacher_logits` [B, C], `cost` [C, C], `labels` [B]; returns [], or [B] for
        `reduction="none"`.

    Args:
        student_logits: logits of the student.
        teacher_logits: logits of the teacher.
        cost: c_ij, the cost from the student's class i to the teacher's class j, for example from `class_cost_matrix`.
        labels: integer classes in [0, C), negative for unlabelled rows; None: transport over all classes.
        weight: w >= 0, weight of the other classes relative to the label's; must be 1 without labels.
        temperature: T > 0.
        regularization: ε > 0 of the Sinkhorn iteration.
        iterations: number of updates of v and u.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64. It is not 0 for a student equal to the teacher: ε spreads the plan, and with
        labels there is a cross-entropy.

    Raises:
        ValueError: for shapes that do not fit, a single class, a label >= C, a weight without labels, or a
            hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> cost = torch.tensor([[0.0, 0.1, 1.0], [0.1, 0.0, 1.0], [1.0, 1.0, 0.0]])  # the first two are similar
        >>> first, second, third = 10 * torch.eye(3).unsqueeze(1)
        >>> moved = [wasserstein_logit_loss(student, first, cost, temperature=1.0) for student in (second, third)]
        >>> [round(value.item(), 2) for value in moved]
        [0.1, 1.0]

    Reference:
        Lv et al., Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation, NeurIPS 2024, and
        the authors' code: the weight 600 (T = 8) or 200 (T = 6) on CIFAR-100 and 30 (T = 2) on ImageNet.

    Deviations:
        None. As in the code, the 10 iterations are far from converged (in one case they give 0.046, 100 give 0.062, and
        the exact transport cost is 0.057); there is neither T² nor an entropy term; and the student's marginals are met
        exactly but not the teacher's. If M / ε is about 20 or more, 1e-8 outweighs K, and too little is transported.
        The defaults of the released function (ε = 25, 30 iterations) are not used in any of its configurations.
        Computed in float64.
    """
    name = "wasserstein_logit_loss"
    check.floating(name, 2, student_logits=student_logits, teacher_logits=teacher_logits)
    check.same_shape(name, student_logits=student_logits, teacher_logits=teacher_logits)
    check.several_classes(name, student_logits=student_logits)
    check.floating(name, 2, cost=cost)
    check.same_device(name, student_logits=student_logits, cost=cost)
    classes = student_logits.shape[1]
    if cost.shape != (classes, classes):
        check.fail(name, "cost", f"of shape [{classes}, {classes}]", f"shape {check.shape(cost)}")
    check.hyperparameters(
        name,
        CHECKS,
        weight=weight,
        temperature=temperature,
        regularization=regularization,
        iterations=iterations,
        reduction=reduction,
    )
    dtype = torch.promote_types(student_logits.dtype, teacher_logits.dtype)
    costs = as_float64(cost).clamp(min=0) + _EPS
    if labels is None:
        if weight != 1:
            check.fail(
                name, "weight", "1 where no `labels` are given, since it weighs classes beside a label's", weight
            )
        source, target = ((as_float64(z) / temperature).softmax(1) for z in (student_logits, teacher_logits))
        start = torch.full_like(source, 1 / classes)
        values = _transported(source, target, start, costs, regularization, iterations)
        return reduce(name, values.to(dtype), reduction)
    check.class_labels(name, classes, unlabelled=True, labels=labels)
    check.same_rows(name, student_logits=student_logits, labels=labels)
    labelled = labels >= 0
    # Unlabelled rows must not count.
    student, teacher = (torch.where(labelled[:, None], as_float64(z), 0.0) for z in (student_logits, teacher_logits))
    targets = labels.long().clamp(min=0)
    own = teacher.detach().softmax(1).gather(1, targets[:, None])
    of_label = -expectation(own, student.log_softmax(1).gather(1, targets[:, None]))
    source, target = (among_all(other_logits(z / temperature, targets).softmax(1), targets) for z in (student, teacher))
    # A class with zero mass takes no part, so the label's row and column need not be removed from the cost.
    start = among_all(torch.full_like(source[:, 1:], 1 / (classes - 1)), targets)
    values = of_label + weight * _transported(source, target, start, costs, regularization, iterations)
    values = torch.where(labelled, values, 0.0).to(dtype)
    return reduce(name, values, reduction, counted=labelled)


def _transported(
    source: Tensor, target: Tensor, start: Tensor, costs: Tensor, regularization: float, iterations: int
) -> Tensor:
    kernel = (-costs / regularization).exp()
    u, v = start, target
    for _ in range(iterations):
        v = target / (u @ kernel + _EPS)
        u = source / (v @ kernel.T + _EPS)
    return (u @ (kernel * costs) * v).sum(1)


@float32_island
def gaussian_feature_loss(
    student_map: Tensor,
    teacher_map: Tensor,
    *,
    grid: int = 1,
    mean_weight: float = 4.0,
    eps: float = 1e-5,
    reduction: Reduction = "mean",
) -> Tensor:
    """Squared Wasserstein distance of each channel's Gaussian in the cells of a map, with a weight for the means.

    With m and d the mean and the deviation √(var + ε) of a channel in a cell, var with n − 1 in the denominator: ℓ_b =
    (1/g²) Σ_cells Σ_channels [ w (m_s − m_t)² + (d_s − d_t)² ]; "mean" is over the batch. Of the g × g cells, cell i, j
    covers the rows from ⌊i H/g⌋ to ⌈(i + 1) H/g⌉, and columns likewise; cells may overlap.

    Shape:
        `student_map` and `teacher_map` [B, C, H, W], the larger one average-pooled first; returns [], or [B] for
        `reduction="none"`.

    Args:
        student_map: feature map, projected to the teacher's channels.
        teacher_map: feature map.
        grid: g, cells along a side.
        mean_weight: w >= 0; 1 is the Wasserstein distance itself.
        eps: ε > 0, added to the variance.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64. As a sum over channels, it usually has weights of about 0.05.

    Raises:
        ValueError: for shapes that do not fit or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[[[-1.0, 1.0], [1.0, -1.0]]]])
        >>> [gaussian_feature_loss(teacher + 3, teacher, grid=g).item() for g in (1, 2)]
        [36.0, 36.0]

    Reference:
        Lv et al., Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation, NeurIPS 2024, and
        the authors' code: (g, w) and the weight are (1, 4) and 0.08 or (4, 3) and 0.3 on CIFAR-100, (4, 2) and 0.02 on
        ImageNet.

    Deviations:
        A cell of one position has variance 0; the released code gives NaN.
    """
    name = "gaussian_feature_loss"
    check.floating(name, 4, student_map=student_map, teacher_map=teacher_map)
    if student_map.shape[:2] == teacher_map.shape[:2]:
        student_map, teacher_map = pooled_alike(student_map, teacher_map)
    check.same_shape(name, student_map=student_map, teacher_map=teacher_map)
    check.hyperparameters(name, FEATURE_CHECKS, grid=grid, mean_weight=mean_weight, eps=eps, reduction=reduction)
    height, width = student_map.shape[2:]
    values = student_map.new_zeros(len(student_map))
    for rows in _cuts(height, grid):
        for columns in _cuts(width, grid):
            ours, theirs = (_moments(x[:, :, rows, columns].flatten(2), eps) for x in (student_map, teacher_map))
            mean, deviation = ((a - b).square().sum(1) for a, b in zip(ours, theirs, strict=True))
            values = values + mean_weight * mean + deviation
    return reduce(name, values / grid**2, reduction)


def _cuts(side: int, grid: int) -> list[slice]:
    return [slice(i * side // grid, -(-(i + 1) * side // grid)) for i in range(grid)]


def _moments(cell: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return mean and deviation [B, C] of the positions of a cell [B, C, n]."""
    mean = cell.mean(2)
    variance = (cell - mean[:, :, None]).square().sum(2) / max(cell.shape[2] - 1, 1)
    return mean, (variance + eps).sqrt()


class WassersteinLogitLoss(nn.Module):
    """`wasserstein_logit_loss` with its hyper-parameters stored."""

    def __init__(
        self,
        *,
        weight: float = 1.0,
        temperature: float = 8.0,
        regularization: float = 0.05,
        iterations: int = 10,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        hyperparameters = {
            "weight": weight,
            "temperature": temperature,
            "regularization": regularization,
            "iterations": iterations,
            "reduction": reduction,
        }
        check.hyperparameters("WassersteinLogitLoss", CHECKS, **hyperparameters)
        self.weight = weight
        self.temperature = temperature
        self.regularization = regularization
        self.iterations = iterations
        self.reduction: Reduction = reduction

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, cost: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """Return the loss of `student_logits` and `teacher_logits` [B, C] with `cost` [C, C] and `labels` [B]."""
        return wasserstein_logit_loss(
            student_logits,
            teacher_logits,
            cost,
            labels=labels,
            weight=self.weight,
            temperature=self.temperature,
            regularization=self.regularization,
            iterations=self.iterations,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return (
            f"weight={self.weight}, temperature={self.temperature}, regularization={self.regularization}, "
            f"iterations={self.iterations}, reduction={self.reduction!r}"
        )


class GaussianFeatureLoss(nn.Module):
    """`gaussian_feature_loss` with its hyper-parameters stored."""

    def __init__(
        self, *, grid: int = 1, mean_weight: float = 4.0, eps: float = 1e-5, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        hyperparameters = {"grid": grid, "mean_weight": mean_weight, "eps": eps, "reduction": reduction}
        check.hyperparameters("GaussianFeatureLoss", FEATURE_CHECKS, **hyperparameters)
        self.grid = grid
        self.mean_weight = mean_weight
        self.eps = eps
        self.reduction: Reduction = reduction

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """Return the loss of `student_map` and `teacher_map` [B, C, H, W]."""
        return gaussian_feature_loss(
            student_map,
            teacher_map,
            grid=self.grid,
            mean_weight=self.mean_weight,
            eps=self.eps,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"grid={self.grid}, mean_weight={self.mean_weight}, eps={self.eps}, reduction={self.reduction!r}"
