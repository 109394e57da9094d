"""Inter-channel correlation through a trained map to the teacher's channels."""

from __future__ import annotations

import torch
from torch import nn

from congruence.losses.ickd import InterChannelCorrelationLoss
from congruence.methods.method import Needs
from congruence.methods.projected import Projected, normed_convolution


class InterChannelCorrelation(Projected):
    """`inter_channel_correlation_loss` of the teacher's map and the student's, projected to the teacher's channels.

    L = Σ_layers (1/(C B)) Σ_b ‖Ĝ_b(BN(conv1×1(s))) − Ĝ_b(t)‖²_F with Ĝ the channels' Gram matrix, its rows normalised
    to length 1. The batch norm uses the statistics of the whole batch. The default layer is the last map of each model.

    Shape:
        maps [B, C, H, W] of any widths, the larger one average-pooled; a loss of shape [].

    Raises:
        ValueError: for layers that are not maps, when the term is built.

    Example:
        >>> InterChannelCorrelation().needs.roles
        ('maps',)

    Reference:
        Liu et al., Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation, ICCV 2021, and
        the authors' code for CIFAR-100, with the weight 2.5.

    Deviations:
        Like here, the code projects the student even if widths are equal; it also creates a module for the teacher that
        it never uses.
    """

    needs = Needs(roles=("maps",), stages=1)

    def __init__(self) -> None:
        super().__init__(InterChannelCorrelationLoss())

    def projector(self, student: torch.Size, teacher: torch.Size) -> nn.Module:
        """Return a convolution 1×1 with batch norm."""
        return normed_convolution("InterChannelCorrelation", student, teacher)
