"""Finds which of a layer's tokens are the patches of an image, and which come before them: class tokens, registers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import Tensor

from congruence.geometry.maps import pooled_alike

STAGES = 4  # blocks of a transformer, at most, that stand for its stages
MOST = 8  # tokens that may stand before the patches: a class token, one for distillation, registers
Size = tuple[int, int]


class Patches(NamedTuple):
    """The arrangement of a layer's tokens: first `before` other tokens, then the patches, row by row."""

    before: int
    height: int
    width: int

    def of_count(self, count: int) -> Patches | None:
        """Return how so many tokens lie of an image of the same proportions; None if they do not fit.

        Example:
            >>> Patches(1, 14, 14).of_count(197), Patches(1, 14, 14).of_count(785), Patches(1, 14, 14).of_count(200)
            (Patches(before=1, height=14, width=14), Patches(before=1, height=28, width=28), None)
        """
        share = ((count - self.before) / (self.height * self.width)) ** 0.5 if count > self.before else 0.0
        height, width = round(self.height * share), round(self.width * share)
        return Patches(self.before, height, width) if height * width == count - self.before > 0 else None


def patches_of(count: int, sizes: Iterable[Size]) -> Patches | None:
    """Return how `count` tokens lie, from the sizes of the maps that the model makes of an image; None if none fits.

    A transformer's patches come from a convolution, whose map has their size. Where it merges them, each stage has half
    as many rows and columns, and no token stands before them. Of several that fit, the one with the fewest tokens
    before the patches is meant.

    Example:
        >>> patches_of(197, [(14, 14)]), patches_of(49, [(56, 56)]), patches_of(77, [])
        (Patches(before=1, height=14, width=14), Patches(before=0, height=7, width=7), None)
    """
    fitting = []
    for seen in sizes:
        for size in _halved(seen):
            before = count - size[0] * size[1]
            if 0 <= before <= (MOST if size == seen else 0) and size != (1, 1):
                fitting.append(Patches(before, *size))
    return min(fitting, key=lambda each: each.before, default=None)


def _halved(size: Size) -> Iterator[Size]:
    height, width = size
    yield height, width
    while height > 1 and width > 1:
        height, width = (height + 1) // 2, (width + 1) // 2
        yield height, width


def spread_blocks(found: Iterable[tuple[str, type]]) -> list[str]:
    """Return evenly spread blocks of a transformer, shallow to deep, the last of them left out for what comes after it.

    Blocks are the parts of one class within one part, the most that there are of a kind.

    Args:
        found: paths of layers with parts of their own that gave an image's patches, in their order, and their classes.

    Example:
        >>> class Block: ...
        >>> spread_blocks([(f"blocks.{number}", Block) for number in range(12)])
        ['blocks.2', 'blocks.5', 'blocks.8']
    """
    kinds: dict[tuple[str, type], list[str]] = {}
    for path, kind in found:
        kinds.setdefault((path.rpartition(".")[0], kind), []).append(path)
    blocks = max(kinds.values(), key=len, default=[])
    stages = min(STAGES, len(blocks))
    return [blocks[len(blocks) * (stage + 1) // stages - 1] for stage in range(stages - 1)]


def as_maps(tokens: Tensor, patches: Patches) -> Tensor:
    """Return the patches among tokens [B, N, C] as maps [B, C, H, W].

    Example:
        >>> import torch
        >>> as_maps(torch.ones(2, 197, 8), Patches(1, 14, 14)).shape
        torch.Size([2, 8, 14, 14])
    """
    return tokens[:, patches.before :].mT.unflatten(2, (patches.height, patches.width))


def as_tokens(maps: Tensor) -> Tensor:
    """Return maps [B, C, ...] as tokens [B, N, C], row by row.

    Example:
        >>> import torch
        >>> as_tokens(torch.ones(2, 8, 14, 14)).shape
        torch.Size([2, 196, 8])
    """
    return maps.flatten(2).mT


def tokens_of(tensor: Tensor, patches: Patches | None) -> tuple[Tensor, Size | None]:
    """Return a tapped tensor as tokens [B, N, C], those before the patches left out, and how they lie in an image.

    Example:
        >>> import torch
        >>> tokens, grid = tokens_of(torch.ones(2, 197, 8), Patches(1, 14, 14))
        >>> tokens.shape, grid, tokens_of(torch.ones(2, 8, 4, 3), None)[1]
        (torch.Size([2, 196, 8]), (14, 14), (4, 3))
    """
    if tensor.dim() > 3:
        return as_tokens(tensor), (tensor.shape[2], tensor.shape[3]) if tensor.dim() == 4 else None
    if patches is None:
        return tensor, None
    return tensor[:, patches.before :], (patches.height, patches.width)


def tokens_alike(
    first: Tensor, second: Tensor, first_grid: Size | None, second_grid: Size | None
) -> tuple[Tensor, Tensor]:
    """Return two sides' tokens as many as each other: on grids of two sizes, the larger is averaged to the smaller.

    Raises:
        ValueError: for other numbers of tokens where no grid is known.

    Example:
        >>> import torch
        >>> fine, coarse = torch.ones(2, 16, 3), torch.ones(2, 4, 5)
        >>> [list(each.shape) for each in tokens_alike(fine, coarse, (4, 4), (2, 2))]
        [[2, 4, 3], [2, 4, 5]]
    """
    if first.shape[1] == second.shape[1] and (first_grid == second_grid or None in (first_grid, second_grid)):
        return first, second
    if first_grid is None or second_grid is None:
        raise ValueError(
            f"{first.shape[1]} tokens of the student and {second.shape[1]} of the teacher lie on no grid by which they "
            "could be brought together: read layers that give as many."
        )
    maps = [as_maps(each, Patches(0, *grid)) for each, grid in ((first, first_grid), (second, second_grid))]
    one, other = pooled_alike(*maps)
    return as_tokens(one), as_tokens(other)
