"""Metric knowledge transfer: the teacher's embeddings and its distances, with separate weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.losses.mkt import metric_transfer_absolute_loss, metric_transfer_relative_loss
from congruence.methods.method import Method, Needs, Probe, Signals
from congruence.models.projectors import linear_projector


class MetricTransfer(Method):
    """`metric_transfer_absolute_loss` ("absolute") and `metric_transfer_relative_loss` ("relative"), each summed.

    absolute = (1/B) Σ_b ‖s_b − t_b‖, by a trained linear map where the student's width is not the teacher's;
    relative = ‖D_s − D_t‖_F of the distances within the batch, without the map. The sums are over the layers.

    Shape:
        features [B, D] of both sides; two losses of shape [].

    Example:
        >>> MetricTransfer().needs.labels
        False

    Reference:
        Yu et al., Learning Metrics from Teachers: Compact Networks for Image Embedding, CVPR 2019.

    Deviations:
        The authors use only one of the two, together with a metric loss; their code leaves the weight to the user (0 by
        default). `weight={"absolute": 1, "relative": 0}` uses the first alone.
    """

    needs = Needs()

    def __init__(self) -> None:
        super().__init__()
        self.projectors = nn.ModuleList()

    def build(self, probe: Probe) -> None:
        """Make a linear map for each layer whose widths differ."""
        self.projectors = nn.ModuleList(
            nn.Identity() if student[1] == teacher[1] else linear_projector(student[1], teacher[1])
            for student, teacher in probe.pairs()
        )

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Sum each part over the layers."""
        pairs = signals.pairs()
        absolute = [
            metric_transfer_absolute_loss(part(student), teacher)
            for part, (student, teacher) in zip(self.projectors, pairs, strict=True)
        ]
        relative = [metric_transfer_relative_loss(*pair) for pair in pairs]
        return {"absolute": torch.stack(absolute).sum(), "relative": torch.stack(relative).sum()}
