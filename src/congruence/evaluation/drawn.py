"""Which samples stand for all of them, the same for every model and in every process."""

from __future__ import annotations

import torch
from torch import Tensor

from congruence.core.rng import keyed_generator

_STREAM = 0xC0A7


def shuffled(count: int) -> Tensor:
    """Return the positions of `count` samples in an order that is always the same: its first ones are a draw of them.

    Example:
        >>> sorted(shuffled(5).tolist()), bool((shuffled(5) == shuffled(5)).all())
        ([0, 1, 2, 3, 4], True)
    """
    return torch.randperm(count, generator=keyed_generator(_STREAM, 0))


def few(count: int, most: int) -> Tensor:
    """Return the positions of all samples, or of `most` drawn ones where there are more, in their order.

    Example:
        >>> few(3, 5).tolist(), len(few(9, 5))
        ([0, 1, 2], 5)
    """
    return torch.arange(count) if count <= most else shuffled(count)[:most].sort().values
