"""Feature maps pooled to the same number of regions, for any size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from congruence.geometry.maps import pooled_to


def pooled_exactly(maps: Tensor, side: int) -> Tensor:
    """Average-pool maps to `side` × `side` regions; those of a smaller map overlap, as in adaptive pooling.

    Shape:
        `maps` [B, C, H, W]; returns [B, C, side, side].

    Example:
        >>> import torch
        >>> pooled_exactly(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]), 1).item()
        4.0
        >>> pooled_exactly(torch.tensor([[[[1.0], [3.0]]]]), 2).tolist()
        [[[[1.0, 1.0], [3.0, 3.0]]]]
    """
    pooled = pooled_to(maps, side)  # not adaptive pooling where windows are equal: its backward varies on GPUs
    return pooled if pooled.shape[2:] == (side, side) else F.adaptive_avg_pool2d(pooled, side)
