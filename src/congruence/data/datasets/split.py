"""Random choices of samples and classes by a seed: stratified, per class, and classes held out for testing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from congruence.core.check import fail
from congruence.core.rng import keyed_uniform

# One stream of random numbers for each use, so that no choice depends on another.
TEST, VALIDATION, TRAIN_SIZE, LABELS, DIAGNOSTICS, MOMENTS, CLASSES, DATABASE = range(101, 109)


def _ranked(labels: Tensor, seed: int, stream: int) -> tuple[Tensor, Tensor]:
    """Sort positions by (class, random score); return them and each one's rank within its class."""
    scores = keyed_uniform(seed, 0, torch.arange(len(labels)), 1, stream=stream)[:, 0]
    order = torch.from_numpy(np.lexsort((scores.numpy(), labels.numpy())))
    counts = labels.unique(return_counts=True)[1]
    starts = counts.cumsum(0) - counts
    return order, torch.arange(len(labels)) - starts.repeat_interleave(counts)


def _quotas(counts: list[int], total: int) -> list[int]:
    """Divide `total` over classes in proportion (largest remainders); a class gives its last sample only if needed."""
    size = sum(counts)
    quotas = [total * count // size for count in counts]
    by_claim = sorted(range(len(counts)), key=lambda c: (quotas[c] + 1 >= counts[c], -(total * counts[c] % size), c))
    for position in by_claim[: total - sum(quotas)]:
        quotas[position] += 1
    return quotas


def stratified(labels: Tensor, total: int, *, seed: int, stream: int) -> tuple[Tensor, Tensor]:
    """Choose `total` samples so that each class keeps its share; -1 counts as a class.

    Shape:
        labels int64 [N]; the two results [total] and [N - total], both increasing.

    Args:
        labels: labels of all samples.
        total: number of samples to choose, 0 <= total <= N.
        seed: seed of the choice.
        stream: separates different choices with the same seed.

    Returns:
        The chosen positions, and the others.

    Example:
        >>> import torch
        >>> chosen, rest = stratified(torch.tensor([0, 0, 0, 0, 1, 1]), 3, seed=0, stream=1)
        >>> torch.tensor([0, 0, 0, 0, 1, 1])[chosen].tolist(), len(rest)
        ([0, 0, 1], 3)
    """
    if not 0 <= total <= len(labels):
        fail("stratified", "total", f"between 0 and {len(labels)}", total)
    if total == 0:
        return torch.arange(0), torch.arange(len(labels))
    classes, counts = labels.unique(return_counts=True)
    quotas = torch.tensor(_quotas(counts.tolist(), total))
    order, ranks = _ranked(labels, seed, stream)
    taken = ranks < quotas[torch.searchsorted(classes, labels[order])]
    return order[taken].sort().values, order[~taken].sort().values


def new_order(classes: int, unseen: int, *, seed: int) -> list[int]:
    """Order the classes so that `unseen` of them, chosen by the seed, come last; each side keeps its order.

    With the same seed, a larger `unseen` includes the classes chosen by a smaller one.

    Example:
        >>> order = new_order(5, 2, seed=0)
        >>> sorted(order), order[:3] == sorted(order[:3])
        ([0, 1, 2, 3, 4], True)
    """
    scores = keyed_uniform(seed, 0, torch.arange(classes), 1, stream=CLASSES)[:, 0]
    chosen = scores.argsort()[:unseen].sort().values.tolist()
    return [*sorted(set(range(classes)) - set(chosen)), *chosen]


def first_of_each(labels: Tensor, per_class: int, *, seed: int, stream: int) -> Tensor:
    """Choose `per_class` labelled samples of each class; with the same seed, larger numbers include smaller choices."""
    order, ranks = _ranked(labels, seed, stream)
    return order[(ranks < per_class) & (labels[order] >= 0)].sort().values
