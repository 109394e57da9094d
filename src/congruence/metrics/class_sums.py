"""Sums of e^cosine over pairs within a class and between classes, from blocks of the similarity matrix."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from congruence.core.numerics import as_float64, unit

_CHUNK_ENTRIES, _LEAST_ROWS = 2**19, 32  # matrix products of fewer rows are slow


class ClassSums(NamedTuple):
    """For every sample, each [N]: sums of e^{φ_i·φ_j} over others of its class and over other classes, and counts."""

    near: Tensor
    far: Tensor
    mates: Tensor
    others: Tensor


def class_sums(
    embeddings: Tensor, classes: Tensor, chunk_size: int | None = None, *, between: bool = True
) -> ClassSums:
    """Sum e^{φ_i·φ_j}, φ the unit rows, in float64; without `between`, `far` stays 0 and only classes cost time.

    Samples are sorted by class, so that the pairs within a class are on the left of a block. Each pair is computed
    once, since e^{φ_i·φ_j} is symmetric.

    Shape:
        `embeddings` [N, D], `classes` [N].

    Example:
        >>> import torch
        >>> sums = class_sums(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]), torch.tensor([5, 3, 5]))
        >>> [round(value, 4) for value in sums.far.tolist()], sums.mates.tolist()  # e⁰, e⁰ + e¹, e¹
        ([1.0, 3.7183, 2.7183], [1.0, 0.0, 1.0])
    """
    count = len(classes)
    order = classes.argsort(stable=True)
    rows, labels = unit(as_float64(embeddings))[order], classes[order]
    sizes = labels.unique_consecutive(return_counts=True)[1]
    ends, size = sizes.cumsum(0).repeat_interleave(sizes), sizes.repeat_interleave(sizes)
    near, far = rows.new_zeros(2, count)
    step = chunk_size or max(_LEAST_ROWS, _CHUNK_ENTRIES // max(1, count))
    for start in range(0, count, step):
        stop = min(start + step, count)
        end = int(ends[stop - 1])
        block = (rows[start:stop] @ rows[start : count if between else end].T).exp_()
        block.fill_diagonal_(0)
        left = block[:, : end - start]
        same = left * (labels[start:stop, None] == labels[start:end])
        near[start:stop] += same.sum(1)
        near[stop:end] += same[:, stop - start :].sum(0)
        if between:
            left -= same
            far[start:stop] += block.sum(1)
            far[stop:] += block[:, stop - start :].sum(0)
    back = torch.empty_like(order)
    back[order] = torch.arange(count, device=order.device)
    mates = (size[back] - 1).to(near)
    return ClassSums(near[back], far[back], mates, count - 1 - mates)
