"""Scale-decoupled distillation: each region of the image has its own logits, which are distilled separately."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.core.reduce import REDUCTION, Reduction, reduce
from congruence.geometry.maps import pooled_to
from congruence.geometry.regions import pooled_exactly
from congruence.losses.dkd import decoupled_kd_loss
from congruence.losses.kd import distillation_loss
from congruence.losses.nkd import normalized_kd_loss

__all__ = ["ScaleDecoupledLoss", "region_logits", "scale_decoupled_loss"]

Base = Literal["kd", "dkd", "nkd"]

CHECKS: Mapping[str, check.Constraint] = {
    "base": check.Choice(("kd", "dkd", "nkd")),
    "temperature": check.POSITIVE,
    "alpha": check.NOT_NEGATIVE,
    "beta": check.NOT_NEGATIVE,
    "gamma": check.NOT_NEGATIVE,
    "complementary_weight": check.NOT_NEGATIVE,
    "reduction": REDUCTION,
}
_SIDE = 4  # regions along a side at the finest scale; coarser scales are pooled from these


@float32_island
def region_logits(
    feature_map: Tensor, weight: Tensor, bias: Tensor | None, *, scales: Sequence[int] = (1, 2, 4)
) -> Tensor:
    """Logits of a map's regions, from the network's own classifier.

    The map is average-pooled to 4 × 4 regions, and these to k × k for each scale k; z_r = W f_r + b for the pooled
    feature f_r. The regions come scale by scale, row by row.

    Shape:
        `feature_map` [B, D, H, W], `weight` [C, D], `bias` [C] or None; returns [B, C, N], N = Σ k² (21 by default).

    Args:
        feature_map: the last map before pooling.
        weight: W of the classifier.
        bias: b of the classifier.
        scales: distinct values from 1, 2 and 4; with 1 first, region 0 is the whole map, as `scale_decoupled_loss`
            expects.

    Returns:
        The logits, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit or invalid scales.

    Example:
        >>> import torch
        >>> quarters = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]).repeat_interleave(2, 2).repeat_interleave(2, 3)
        >>> region_logits(quarters, torch.ones(1, 1), torch.zeros(1), scales=(1, 2)).tolist()
        [[[3.0, 1.0, 2.0, 3.0, 6.0]]]

    Reference:
        Wei et al., Scale Decoupled Distillation, CVPR 2024, and the authors' code.

    Deviations:
        None. As in the code, for a map whose sides are not multiples of 4 (such as 7 × 7), the windows overlap, so the
        global region is not exactly the network's pooled feature.
    """
    name = "region_logits"
    check.floating(name, 4, feature_map=feature_map)
    check.floating(name, 2, weight=weight)
    if weight.shape[1] != feature_map.shape[1]:
        wanted = f"of shape [C, {feature_map.shape[1]}] for `feature_map` {check.shape(feature_map)}"
        check.fail(name, "weight", wanted, f"shape {check.shape(weight)}")
    if bias is not None:
        check.floating(name, 1, bias=bias)
        if bias.shape != weight.shape[:1]:
            check.fail(name, "bias", f"None or of shape [{weight.shape[0]}]", f"shape {check.shape(bias)}")
    known = isinstance(scales, (tuple, list)) and len(scales) > 0 and all(k in (1, 2, 4) for k in scales)
    if not known or len(set(scales)) < len(scales):
        check.fail(name, "scales", "different ones of 1, 2 and 4", repr(scales))
    finest = pooled_exactly(feature_map, _SIDE)
    regions = torch.cat([pooled_to(finest, k).flatten(2) for k in scales], 2)
    dtype = torch.promote_types(regions.dtype, weight.dtype)
    logits = weight.to(dtype) @ regions.to(dtype)
    return logits if bias is None else logits + bias.to(dtype)[:, None]


@float32_island
def scale_decoupled_loss(
    student_regions: Tensor,
    teacher_regions: Tensor,
    labels: Tensor,
    *,
    base: Base = "kd",
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 2.0,
    gamma: float = 1.5,
    complementary_weight: float = 2.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """A logit loss at each region, with a larger weight if a region and the whole image disagree about the label.

    ℓ_b = (1/N) Σ_r w_br ℓ_br with ℓ_br the base loss of region r, and w_br = the complementary weight if the teacher is
    right in the region and wrong in region 0 (the whole), or the reverse, else 1; 0 if y_b < 0 (no label). "mean" is
    over the labelled rows, and 0 if there are none.

    Shape:
        `student_regions` and `teacher_regions` [B, C, N], `labels` [B]; returns [], or [B] for `reduction="none"`.

    Args:
        student_regions: logits of the student's regions, from `region_logits`.
        teacher_regions: logits of the teacher's regions.
        labels: integer classes in [0, C); a negative value marks an unlabelled row.
        base: "kd" is `distillation_loss`, "dkd" `decoupled_kd_loss` and "nkd" `normalized_kd_loss`.
        temperature: T > 0 of the base loss.
        alpha: α >= 0 of "dkd", weight of the label's class.
        beta: β >= 0 of "dkd", weight of the other classes.
        gamma: γ >= 0 of "nkd", weight of the other classes.
        complementary_weight: weight of the regions that disagree with the whole.
        reduction: "none", "mean" or "sum".

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit, a single class, a label >= C, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[[1.0, 2.0], [3.0, 0.0]]])  # wrong as a whole, right in its other region
        >>> plain, weighed = (
        ...     scale_decoupled_loss(torch.zeros(1, 2, 2), teacher, torch.tensor([0]), complementary_weight=w)
        ...     for w in (1.0, 2.0)
        ... )
        >>> round((weighed / plain).item(), 4)
        1.5

    Reference:
        Wei et al., Scale Decoupled Distillation, CVPR 2024, and the authors' code.

    Deviations:
        With "nkd", the second term in the released code includes all classes; here it runs over the other classes, as
        in NKD. That code also sets NaN to 0. As in the code, the mean is over the regions; the paper has sums.
    """
    name = "scale_decoupled_loss"
    check.floating(name, 3, student_regions=student_regions, teacher_regions=teacher_regions)
    check.same_shape(name, student_regions=student_regions, teacher_regions=teacher_regions)
    rows, classes, regions = student_regions.shape
    if classes < 2:
        check.fail(name, "student_regions", "logits [B, C, N] of two classes or more", check.shape(student_regions))
    check.class_labels(name, classes, unlabelled=True, labels=labels)
    check.same_rows(name, student_regions=student_regions, labels=labels)
    check.hyperparameters(
        name,
        CHECKS,
        base=base,
        temperature=temperature,
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        complementary_weight=complementary_weight,
        reduction=reduction,
    )
    labelled = labels >= 0
    # Unlabelled rows must not count.
    student, teacher = (
        torch.where(labelled[:, None, None], x, 0.0).mT.flatten(0, 1) for x in (student_regions, teacher_regions)
    )
    if base == "kd":
        values = distillation_loss(student, teacher, temperature=temperature, reduction="none")
    else:
        of_regions = labels[:, None].expand(rows, regions).flatten()
        if base == "dkd":
            values = decoupled_kd_loss(
                student, teacher, of_regions, alpha=alpha, beta=beta, temperature=temperature, reduction="none"
            )
        else:
            values = normalized_kd_loss(
                student, teacher, of_regions, gamma=gamma, temperature=temperature, reduction="none"
            )
    right = teacher_regions.argmax(1) == labels[:, None]
    weights = torch.where(right != right[:, :1], complementary_weight, 1.0).to(values.dtype)
    values = torch.where(labelled, (weights * values.reshape(rows, regions)).mean(1), 0.0)
    return reduce(name, values, reduction, counted=labelled)


class ScaleDecoupledLoss(nn.Module):
    """`scale_decoupled_loss` with its hyper-parameters stored."""

    def __init__(
        self,
        *,
        base: Base = "kd",
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 2.0,
        gamma: float = 1.5,
        complementary_weight: float = 2.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        hyperparameters = {
            "base": base,
            "temperature": temperature,
            "alpha": alpha,
            "beta": beta,
            "gamma": gamma,
            "complementary_weight": complementary_weight,
            "reduction": reduction,
        }
        check.hyperparameters("ScaleDecoupledLoss", CHECKS, **hyperparameters)
        self.base: Base = base
        self.temperature = temperature
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.complementary_weight = complementary_weight
        self.reduction: Reduction = reduction

    def forward(self, student_regions: Tensor, teacher_regions: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of `student_regions` and `teacher_regions` [B, C, N] with `labels` [B]."""
        return scale_decoupled_loss(
            student_regions,
            teacher_regions,
            labels,
            base=self.base,
            temperature=self.temperature,
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            complementary_weight=self.complementary_weight,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return (
            f"base={self.base!r}, temperature={self.temperature}, alpha={self.alpha}, beta={self.beta}, "
            f"gamma={self.gamma}, complementary_weight={self.complementary_weight}, reduction={self.reduction!r}"
        )
