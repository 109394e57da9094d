"""DIST+'s feature part: which channels fire together at a place, and which samples fire there."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island, safe_norm
from congruence.geometry.maps import pooled_alike

CHECKS: Mapping[str, check.Constraint] = {
    "channel_weight": check.NOT_NEGATIVE,
    "spatial_weight": check.NOT_NEGATIVE,
    "eps": check.POSITIVE,
}


@float32_island
def dist_feature_loss(
    student_map: Tensor,
    teacher_map: Tensor,
    *,
    channel_weight: float = 1.0,
    spatial_weight: float = 1.0,
    eps: float = 1e-8,
) -> Tensor:
    """Pearson's correlation of feature maps, over the channels of each place and over the samples of the batch.

    With S = Σ_c F_c the map summed over its channels, ρ(a, b) = ⟨a', b'⟩ / (‖a'‖ ‖b'‖ + ε), a' and b' centred, and σ
    the same but divided by max(‖a'‖, ε) max(‖b'‖, ε):
    L = w_c (1 − mean over samples and places of ρ(F_s,b·p, F_t,b·p)) + w_s (1 − mean over places of σ(S_s,·p, S_t,·p)).
    The first term is 0 for one channel and the second for one sample: nothing can correlate.

    Shape:
        `student_map` and `teacher_map` [B, C, H, W], the larger one average-pooled first; returns [].

    Args:
        student_map: feature map, brought to the teacher's channels.
        teacher_map: feature map.
        channel_weight: w_c >= 0.
        spatial_weight: w_s >= 0.
        eps: ε > 0, beside the norms.

    Returns:
        The loss, in float32 or float64, to be added to `dist_loss` of the logits. ε leaves it a little above 0 for a
        student equal to the teacher, and a constant vector correlates with none, with
        zero gradient.

    Raises:
        ValueError: for shapes that do not fit or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[[[1.0]], [[4.0]]], [[[3.0]], [[1.0]]]])
        >>> round(dist_feature_loss(5 * teacher + 1, teacher).item(), 4)
        0.0
        >>> round(dist_feature_loss(-teacher, teacher).item(), 4)
        4.0

    Reference:
        Huang et al., the extension of Knowledge Distillation from a Stronger Teacher, TPAMI 2025: from the definition,
        with the terms that torchdistill has.

    Deviations:
        torchdistill adds the correlation over channels itself, where 1 less the correlation is meant: to minimise that
        drives the features apart. The two places of ε are its. The paper was not at hand; its acclimation of the
        teacher is not part of this.
    """
    name = "dist_feature_loss"
    check.floating(name, 4, student_map=student_map, teacher_map=teacher_map)
    if student_map.shape[:2] == teacher_map.shape[:2]:
        student_map, teacher_map = pooled_alike(student_map, teacher_map)
    check.same_shape(name, student_map=student_map, teacher_map=teacher_map)
    check.hyperparameters(name, CHECKS, channel_weight=channel_weight, spatial_weight=spatial_weight, eps=eps)
    dtype = torch.promote_types(student_map.dtype, teacher_map.dtype)
    student, teacher = (as_float64(x).flatten(2) for x in (student_map, teacher_map))
    # Where nothing can correlate the products are 0: so is the term, and what is no number stays.
    product, ours, theirs = _parts(student, teacher, 1)
    channels = (product / (ours * theirs + eps)).mean()
    product, ours, theirs = _parts(student.sum(1), teacher.sum(1), 0)
    samples = (product / (ours.clamp(min=eps) * theirs.clamp(min=eps))).mean()
    several = [float(count > 1) for count in (student.shape[1], len(student))]
    loss = channel_weight * (several[0] - channels) + spatial_weight * (several[1] - samples)
    return loss.to(dtype)


def _parts(first: Tensor, second: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return product and norms along a dimension of what is centred along it."""
    first, second = _centred(first, dim), _centred(second, dim)
    return (first * second).sum(dim), safe_norm(first, dim), safe_norm(second, dim)


def _centred(x: Tensor, dim: int) -> Tensor:
    # Of a constant vector (a place without any activation) nothing is left: its gradient would be of the order of 1/ε.
    low, high = x.detach().aminmax(dim=dim, keepdim=True)
    return (x - x.mean(dim, keepdim=True)).masked_fill(high - low == 0, 0)


class DistFeatureLoss(nn.Module):
    """`dist_feature_loss` with its hyper-parameters stored."""

    def __init__(self, *, channel_weight: float = 1.0, spatial_weight: float = 1.0, eps: float = 1e-8) -> None:
        super().__init__()
        hyperparameters = {"channel_weight": channel_weight, "spatial_weight": spatial_weight, "eps": eps}
        check.hyperparameters("DistFeatureLoss", CHECKS, **hyperparameters)
        self.channel_weight = channel_weight
        self.spatial_weight = spatial_weight
        self.eps = eps

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """Return the loss of `student_map` and `teacher_map` [B, C, H, W]."""
        return dist_feature_loss(
            student_map,
            teacher_map,
            channel_weight=self.channel_weight,
            spatial_weight=self.spatial_weight,
            eps=self.eps,
        )

    def extra_repr(self) -> str:
        """Write the hyper-parameters."""
        return f"channel_weight={self.channel_weight}, spatial_weight={self.spatial_weight}, eps={self.eps}"
