"""From tapped tensors to rows, and from one width to another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from congruence.core import check

_DIMENSIONS = check.Real(low=4, high=5, closed="both", integer=True)


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


def width_projector(in_width: int, out_width: int) -> nn.Module:
    """Return `linear_projector` if the widths differ, else the identity.

    Example:
        >>> width_projector(64, 64)
        Identity()
    """
    return nn.Identity() if in_width == out_width else linear_projector(in_width, out_width)


def map_projector(in_width: int, out_width: int, *, dimensions: int = 4) -> nn.Module:
    """Return a 1×1 convolution from `in_width` to `out_width` channels, for maps with 4 or 5 dimensions.

    Example:
        >>> import torch
        >>> map_projector(16, 32)(torch.ones(2, 16, 8, 8)).shape
        torch.Size([2, 32, 8, 8])
    """
    table = {"in_width": check.COUNT, "out_width": check.COUNT, "dimensions": _DIMENSIONS}
    check.hyperparameters("map_projector", table, in_width=in_width, out_width=out_width, dimensions=dimensions)
    return (nn.Conv2d if dimensions == 4 else nn.Conv3d)(in_width, out_width, 1)


def rows(tensor: Tensor, mask: Tensor | None = None) -> Tensor:
    """Turn a tapped tensor into one row for each sample.


    Shape:
        [B, D] is unchanged, [B, T, D] is averaged over T, [B, C, H, W] and [B, C, T, H, W] over all but B and C. With
        `mask`, bool [B, T], a row is the mean of the tokens marked True; NaN if there are none.

    Raises:
        ValueError: for other shapes.

    Example:
        >>> import torch
        >>> rows(torch.ones(2, 64, 8, 8)).shape, rows(torch.ones(2, 7, 32)).shape
        (torch.Size([2, 64]), torch.Size([2, 32]))
        >>> rows(torch.tensor([[[1.0], [9.0]]]), torch.tensor([[True, False]])).item()
        1.0
    """
    if isinstance(tensor, Tensor) and tensor.dim() == 2:
        return tensor
    check.floating("rows", (2, 3, 4, 5), tensor=tensor)
    if tensor.dim() != 3:
        return tensor.flatten(2).mean(2) if tensor.dim() == 5 else tensor.mean((2, 3))
    return tensor.mean(1) if mask is None else _mean_of_real(tensor, mask)


def _mean_of_real(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the tokens [B, T, D] that `mask` [B, T] marks: as exact as torch's own mean."""
    if mask.dtype != torch.bool or mask.shape != tokens.shape[:2]:
        check.fail("rows", "mask", f"bool {list(tokens.shape[:2])}", f"{mask.dtype} {check.shape(mask)}")
    wide = torch.promote_types(tokens.dtype, torch.float32)
    # What a padded position holds must not count, NaN included, and NaN · 0 is NaN.
    total = tokens.masked_fill(~mask.unsqueeze(2), 0).sum(1, dtype=wide)
    return (total / mask.sum(1, keepdim=True)).to(tokens.dtype)
