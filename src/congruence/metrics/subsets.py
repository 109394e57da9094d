"""Estimates from subsets of the samples, for what cannot be computed on all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from congruence.core import check


def subsets(
    function: str, samples: Tensor, argument: str, size: int, repeats: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Draw `repeats` sets of `size` rows, each without replacement; errors name `function` and `argument`.

    Example:
        >>> import torch
        >>> draws = subsets("estimate", torch.zeros(3, 1), "size", 3, 2, torch.Generator().manual_seed(0))
        >>> [sorted(drawn.tolist()) for drawn in draws]
        [[0, 1, 2], [0, 1, 2]]
    """
    rows = len(samples)
    bound = check.Real(low=1, high=rows, closed="both", integer=True)
    checks: dict[str, check.Constraint] = {argument: bound, "repeats": check.COUNT}
    check.hyperparameters(function, checks, **{argument: size, "repeats": repeats})
    if not isinstance(generator, torch.Generator):
        check.fail(function, "generator", "a torch.Generator", type(generator).__name__)
    for _ in range(repeats):
        yield torch.randperm(rows, generator=generator, device=generator.device)[:size].to(samples.device)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation (n − 1; 0 for one value).

    Example:
        >>> mean_and_spread([1.0, 3.0])
        (2.0, 1.4142135623730951)
    """
    count = len(values)
    mean = math.fsum(values) / count
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1)) if count > 1 else 0.0
