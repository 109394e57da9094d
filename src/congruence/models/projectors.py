"""From tapped tensors to rows, and from one width to another."""

from __future__ import annotations

from torch import Tensor, nn

from congruence.core import check


def linear_projector(in_width: int, out_width: int) -> nn.Module:
    """Return an affine map from width `in_width` to `out_width`.

    Example:
        >>> import torch
        >>> linear_projector(64, 128)(torch.ones(2, 64)).shape
        torch.Size([2, 128])
    """
    table = {"in_width": check.COUNT, "out_width": check.COUNT}
    check.hyperparameters("linear_projector", table, in_width=in_width, out_width=out_width)
    return nn.Linear(in_width, out_width)


def map_projector(in_width: int, out_width: int) -> nn.Module:
    """Return a convolution 1×1 from `in_width` to `out_width` channels.

    Example:
        >>> import torch
        >>> map_projector(16, 32)(torch.ones(2, 16, 8, 8)).shape
        torch.Size([2, 32, 8, 8])
    """
    table = {"in_width": check.COUNT, "out_width": check.COUNT}
    check.hyperparameters("map_projector", table, in_width=in_width, out_width=out_width)
    return nn.Conv2d(in_width, out_width, 1)


def rows(tensor: Tensor) -> Tensor:
    """Turn a tapped tensor into one row a sample.

    Shape:
        [B, D] stays, [B, C, H, W] is averaged over H and W, [B, T, D] over T.

    Raises:
        ValueError: for other shapes.

    Example:
        >>> import torch
        >>> rows(torch.ones(2, 64, 8, 8)).shape, rows(torch.ones(2, 7, 32)).shape
        (torch.Size([2, 64]), torch.Size([2, 32]))
    """
    if isinstance(tensor, Tensor) and tensor.dim() == 2:
        return tensor
    check.floating("rows", (2, 3, 4), tensor=tensor)
    return tensor.mean(1) if tensor.dim() == 3 else tensor.mean((2, 3))
