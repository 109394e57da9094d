"""Dissimilarities between the rows of embeddings: differentiable for losses, streamed in blocks for metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from congruence.core import check
from congruence.core.graph import differentiable_once
from congruence.core.numerics import as_float64, float32_island, unit, widen

DissimilarityName = Literal["cosine", "euclidean"]
Dissimilarity = DissimilarityName | Callable[[Tensor], Tensor]

# A float64 product of unit rows errs by about 1e-16; what lies below these is rounding, not distance.
_COSINE_ZERO = 1e-15
_SQUARED_ZERO = 1e-14
_HUGE = 1e15  # a magnitude beyond which squares are near float32's end
_LEAST_ROWS = 16  # of a block: products of fewer are slow
_KEYED = 1024  # rows whose keys are made at a time
_COLUMNS = 2048  # of a block are computed at a time: what is between the product and the result stays in the caches


# What the terms of one batch have computed: (function, argument's id, whether with gradient) → (argument, result).
_Computed = dict[tuple[str, int, bool], tuple[Tensor, Tensor]]
_COMPUTED: ContextVar[_Computed | None] = ContextVar("distances of one batch", default=None)


@contextlib.contextmanager
def computed_once() -> Iterator[None]:
    """Within the block, the distances between the rows of a tensor are computed once, for all losses that need them.

    Example:
        >>> import torch
        >>> x = torch.ones(3, 2)
        >>> with computed_once():
        ...     print(euclidean(x) is euclidean(x), cosine(x) is euclidean(x))
        True False
        >>> euclidean(x) is euclidean(x)
        False
    """
    token = _COMPUTED.set({})
    try:
        yield
    finally:
        _COMPUTED.reset(token)


def _once(function: Callable[[Tensor, Tensor | None], Tensor], x: Tensor) -> Tensor:
    computed = None if torch.compiler.is_compiling() else _COMPUTED.get()
    if computed is None:
        return function(x, None)
    key = (function.__name__, id(x), torch.is_grad_enabled())  # `x` is kept, so no other tensor gets its id
    if key not in computed:
        computed[key] = (x, function(x, None))
    return computed[key][1]


def _without_diagonal(matrix: Tensor) -> Tensor:
    if len(matrix) == 1:
        return 0 * matrix  # no other entry shows what is not finite
    return matrix.masked_fill(torch.eye(matrix.shape[0], dtype=torch.bool, device=matrix.device), 0)


@float32_island
def cosine(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Cosine dissimilarity (1 − cos(x_i, y_j)) / 2, in [0, 1].

    Computed in float64 and returned in the dtype of `x` (half as float32), so that tight clusters keep their digits.
    A zero row has cosine 0 to all others. Equal rows are at exactly 0.

    Shape:
        `x` [B, D], `y` [N, D] (default: `x`, with a diagonal of exactly 0); returns [B, N].

    Example:
        >>> import torch
        >>> cosine(torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])).tolist()
        [[0.0, 0.5, 1.0], [0.5, 0.0, 0.5], [1.0, 0.5, 0.0]]
    """
    return _once(_cosine, x) if y is None else _cosine(x, y)


def _cosine(x: Tensor, y: Tensor | None) -> Tensor:
    rows = unit(as_float64(x))
    columns = rows if y is None else unit(as_float64(y))
    values = (1 - rows @ columns.T) / 2
    values = (values * (values > _COSINE_ZERO)).clamp(max=1).to(x.dtype)
    return _without_diagonal(values) if y is None else values


@float32_island
def euclidean(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Euclidean distance ‖x_i − y_j‖ (not squared), from exact differences; the gradient of a distance of 0 is 0.

    The expansion ‖x‖² + ‖y‖² − 2x·y loses every digit on tight clusters far from the origin; it is not used here.

    Shape:
        `x` [B, D], `y` [N, D] (default: `x`); returns [B, N].

    Example:
        >>> import torch
        >>> euclidean(torch.tensor([[1000.0, 0.0], [1003.0, 4.0]])).tolist()
        [[0.0, 5.0], [5.0, 0.0]]
    """
    return _once(_euclidean, x) if y is None else _euclidean(x, y)


def _euclidean(x: Tensor, y: Tensor | None) -> Tensor:
    columns = x if y is None else y
    largest = _largest(x) if y is None else torch.maximum(_largest(x), _largest(y))
    # Squares of what is larger or smaller leave float32; what is nowhere larger than 1e-30 counts as 0.
    far = (largest > _HUGE) | (largest > 1 / _HUGE**2) & (largest < 1 / _HUGE)
    scale = torch.where(far, largest, torch.ones_like(largest))
    rows, columns = x / scale, columns / scale
    differentiable_once("euclidean", "torch.cdist has no second derivative", rows, columns)
    if y is None and len(x) > 1 and x.device.type == "cpu" and not torch._C._are_functorch_transforms_active():
        return _within(rows) * scale
    return torch.cdist(rows, columns, compute_mode="donot_use_mm_for_euclid_dist") * scale


def _within(rows: Tensor) -> Tensor:
    """Return the distances between all rows: on a processor, pdist takes a tenth of cdist's time and rounds less."""
    upper = torch.ones(len(rows), len(rows), dtype=torch.bool).triu_(1)
    distances = rows.new_zeros(upper.shape).masked_scatter(upper, F.pdist(rows))
    return distances + distances.T


def _largest(x: Tensor) -> Tensor:
    return x.detach().abs().amax() if x.numel() else x.new_zeros(())


DISSIMILARITIES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType({"cosine": cosine, "euclidean": euclidean})
DISSIMILARITY = check.Choice(tuple(DISSIMILARITIES), callable_too=True)


@float32_island
def pairwise_dissimilarity(
    x: Tensor, dissimilarity: Dissimilarity = "cosine", *, function: str = "pairwise_dissimilarity"
) -> Tensor:
    """Dissimilarities between all rows of `x` [B, D], as [B, B].

    Args:
        x: embeddings.
        dissimilarity: "cosine", "euclidean" or a callable [B, D] → [B, B].
        function: whom an error names.

    Raises:
        ValueError: for an unknown name, or a callable that returns another shape.

    Example:
        >>> import torch
        >>> pairwise_dissimilarity(torch.tensor([[0.0], [2.0]]), "euclidean").tolist()
        [[0.0, 2.0], [2.0, 0.0]]
    """
    check.hyperparameters(function, {"dissimilarity": DISSIMILARITY}, dissimilarity=dissimilarity)
    if isinstance(dissimilarity, str):
        return DISSIMILARITIES[dissimilarity](x)
    return square_matrix(function, "dissimilarity", dissimilarity(x), x.shape[0])


def square_matrix(function: str, argument: str, values: Tensor, rows: int) -> Tensor:
    """Return the result of the caller's callable, or raise if it is not [B, B]."""
    if not isinstance(values, Tensor) or values.shape != (rows, rows):
        got = f"shape {check.shape(values)}" if isinstance(values, Tensor) else type(values).__name__
        check.fail(function, argument, f"a callable that maps [{rows}, D] to [{rows}, {rows}]", got)
    return values


def block_rows(columns: int, entries: int) -> int:
    """The number of rows of a given width in a block with about the given number of entries, at least 16.

    Example:
        >>> block_rows(10_000, 2**19), block_rows(100_000, 2**19)
        (52, 16)
    """
    return max(_LEAST_ROWS, entries // columns)


def dissimilarity_blocks(
    query: Tensor, database: Tensor, dissimilarity: DissimilarityName, rows: int
) -> Iterator[Tensor]:
    """Yield dissimilarities of `rows` queries at a time to the whole database, for metrics.

    One float64 product a block, cast to the inputs' dtype (half: float32), so that values do not depend on the block
    size. Equal rows of the database have equal values, whatever a processor's kernels make of their last bits by place.
    Rows that differ by rounding alone are at exactly 0. No gradient. Memory: some 24 `rows` · N bytes, and both
    sides in float64.

    Shape:
        `query` [Q, D], `database` [N, D]; yields [rows, N], the last block smaller.

    Example:
        >>> import torch
        >>> [block.tolist() for block in dissimilarity_blocks(torch.eye(2), torch.eye(2), "cosine", 1)]
        [[[0.0, 0.5]], [[0.5, 0.0]]]
    """
    block = block_maker(query, database, dissimilarity)
    for start in range(0, len(query), rows):
        yield block(slice(start, start + rows))


@torch.no_grad()
def block_maker(query: Tensor, database: Tensor, dissimilarity: DissimilarityName) -> Callable[[slice], Tensor]:
    """Return what computes a block of `dissimilarity_blocks` by its queries, for threads that take blocks in turn.

    Example:
        >>> import torch
        >>> block_maker(torch.eye(2), torch.eye(2), "cosine")(slice(1, 2)).tolist()
        [[0.5, 0.0]]
    """
    dtype = torch.promote_types(widen(query).dtype, widen(database).dtype)
    if dissimilarity == "cosine":
        left, right = unit(as_float64(widen(query))).mul_(-0.5), unit(as_float64(widen(database)))
        parts = max(1, -(-len(right) // _COLUMNS))  # of equal widths: a product of few columns has other bits
        again, first = _repeated(right)

        @torch.no_grad()
        def cosines(rows: slice) -> Tensor:
            block = left[rows]
            values = block.new_empty(len(block), len(right), dtype=dtype)
            for part, columns in zip(values.tensor_split(parts, 1), right.tensor_split(parts), strict=True):
                part.copy_((block @ columns.T).add_(0.5))  # the bits of (1 − product) / 2
                F.threshold(part, _COSINE_ZERO, 0, inplace=True).clamp_(max=1)
            return _alike(values, again, first)

        return cosines
    centre = as_float64(widen(database)).mean(0, keepdim=True)
    left, right = as_float64(widen(query)) - centre, as_float64(widen(database)) - centre
    right_squares = right.square().sum(1)
    again, first = _repeated(right)

    @torch.no_grad()
    def distances(rows: slice) -> Tensor:
        block = left[rows]
        squares = block.square().sum(1, keepdim=True) + right_squares
        values = torch.addmm(squares, block, right.T, alpha=-2)
        return _alike(values.mul_(values > squares.mul_(_SQUARED_ZERO)).sqrt_().to(dtype), again, first)

    return distances


def _repeated(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places of rows [N, D] in float64 that are there before, and those of the first ones."""
    draw = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=draw).to(rows.device)
    keys = torch.cat([(part.view(torch.int64) * factors).sum(1) for part in rows.contiguous().split(_KEYED)])
    keys, order = keys.sort(stable=True)
    new = torch.ones_like(keys, dtype=torch.bool)
    torch.ne(keys[1:], keys[:-1], out=new[1:])
    if bool(new.all()):
        return order.new_empty(0), order.new_empty(0)
    firsts = order[new][new.cumsum(0) - 1]  # of the rows in order
    again, first = order[~new], firsts[~new]
    same = (rows[again] == rows[first]).all(1)
    return again[same], first[same]


def _alike(values: Tensor, again: Tensor, first: Tensor) -> Tensor:
    if len(again):
        values[:, again] = values[:, first]
    return values
