"""Feature maps of two sizes, brought to one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pooled_alike(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two feature maps to the size of the smaller, each side of the image by itself.

    Shape:
        `first` [B, C, H, W], `second` [B, C', H', W']; both return with min(H, H') × min(W, W') positions.

    Example:
        >>> import torch
        >>> [list(x.shape) for x in pooled_alike(torch.ones(2, 3, 8, 8), torch.ones(2, 5, 4, 4))]
        [[2, 3, 4, 4], [2, 5, 4, 4]]
    """
    height, width = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
    return _pooled(first, height, width), _pooled(second, height, width)


def _pooled(maps: Tensor, height: int, width: int) -> Tensor:
    if maps.shape[2:] == (height, width):
        return maps
    if maps.shape[2] % height == 0 and maps.shape[3] % width == 0:  # the adaptive one's backward varies on GPUs
        return F.avg_pool2d(maps, (maps.shape[2] // height, maps.shape[3] // width))
    return F.adaptive_avg_pool2d(maps, (height, width))
