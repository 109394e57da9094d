"""Relational knowledge distillation by distances and by angles, with separate weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from congruence.losses.rkd import rkd_angle_loss, rkd_distance_loss
from congruence.methods.method import Method, Needs, Probe, Signals


class RelationalDistillation(Method):
    """`rkd_distance_loss` ("distance") and `rkd_angle_loss` ("angle"), each summed over the layers.

    distance = (1/B²) Σ_ij smooth_l1(d_ij^s/μ_s − d_ij^t/μ_t); angle = (1/B³) Σ_ijk smooth_l1(ψ_ijk^s − ψ_ijk^t).

    The default weights, 25 and 50, are those of classification; the authors' metric learning has
    `weight={"distance": 1, "angle": 2}`.

    Shape:
        features [B, D] of both sides, widths may differ; two losses of shape [].

    Example:
        >>> RelationalDistillation().needs.labels
        False

    Reference:
        Park et al., Relational Knowledge Distillation, CVPR 2019.
    """

    needs = Needs()

    def __init__(self) -> None:
        super().__init__()

    def build(self, probe: Probe) -> None:
        """Check that both sides have the same number of layers."""
        probe.pairs()

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Sum each part over the layers."""
        parts = {"distance": rkd_distance_loss, "angle": rkd_angle_loss}
        pairs = signals.pairs()
        return {name: torch.stack([part(*pair) for pair in pairs]).sum() for name, part in parts.items()}
