"""Batch norm without running statistics, for modules that are trained inside a method's loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from congruence.core import check


class BatchStatistics(nn.Module):
    """Batch norm of maps by the statistics of the batch, in both training and evaluation.

    y = γ_c (x − mean_c)/√(var_c + eps) + β_c over the rows and positions of a channel, as `nn.BatchNorm2d` in training,
    but without running statistics: a method's `loss` writes no state, and only the students' own are of use later.
    A channel of a single value has no variance; it becomes β_c.

    Shape:
        [B, C, H, W] or [B, C, T, H, W], unchanged.

    Args:
        channels: C.
        eps: > 0.

    Example:
        >>> BatchStatistics(1)(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)).flatten().round().tolist()
        [-1.0, 1.0]
    """

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        table = {"channels": check.COUNT, "eps": check.POSITIVE}
        check.hyperparameters("BatchStatistics", table, channels=channels, eps=eps)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise maps [B, C, H, W]."""
        if maps.numel() == maps.shape[1]:
            return maps * 0 + self.bias.view(1, -1, *[1] * (maps.dim() - 2))
        return F.batch_norm(maps, None, None, self.weight, self.bias, training=True, eps=self.eps)
