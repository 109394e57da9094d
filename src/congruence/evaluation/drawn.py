"""Fixed random subsets of samples, the same for every model and in every process."""

from __future__ import annotations

import torch
from torch import Tensor

from congruence.core.rng import keyed_generator

_STREAM = 0xC0A7


def shuffled(count: int) -> Tensor:
    """Return the positions of `count` samples in a fixed random order, whose first ones are a random subset.

    Example:
        >>> sorted(shuffled(5).tolist()), bool((shuffled(5) == shuffled(5)).all())
        ([0, 1, 2, 3, 4], True)
    """
    return torch.randperm(count, generator=keyed_generator(_STREAM, 0))


def few(count: int, most: int) -> Tensor:
    """Return the positions of all samples, or of `most` random ones if there are more, in ascending order.

    Example:
        >>> few(3, 5).tolist(), len(few(9, 5))
        ([0, 1, 2], 5)
    """
    return torch.arange(count) if count <= most else shuffled(count)[:most].sort().values
