"""Sorting the rows of distance matrices, the main cost of ranking metrics: positions, ranks and nearest neighbours.

On the CPU, float32 distances are sorted as integers that also hold the column. The bits of numbers >= 0 have the same
order as the numbers, so one sort of integers gives values and columns, with equal values in column order.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from congruence.geometry.dissimilarity import DissimilarityName, dissimilarity_blocks

Array = NDArray[Any]
_PIECE_ENTRIES = 2**17  # keys that one thread sorts at once: 1 MB stays in its cache
_STEPS = 6
_LOW = np.uint64(0xFFFFFFFF)
_SIGN = np.uint64(63)
_BINS = 2**16 - 1  # NumPy sorts 16-bit integers by their digits
_LEAST_BINNED = 1024  # columns
_LEAST_COUNTED = 8192  # columns: fewer are sorted as soon
_SAMPLED = 256
_PLACE, _VALUE = (0, 1) if sys.byteorder == "little" else (1, 0)  # the halves of a key


def row_order(values: Tensor) -> Tensor:
    """Columns of each row, ordered from the smallest value to the largest; equal values in column order, NaN last.

    Shape:
        `values` [R, N]; returns int64 [R, N].

    Example:
        >>> import torch
        >>> row_order(torch.tensor([[0.5, 0.0, 0.5, -0.0]])).tolist()
        [[1, 3, 0, 2]]
    """
    if not _has_keys(values):
        return values.sort(dim=1, stable=True).indices
    return _by_pieces(_key_order, np.int64, values)


def flag_ranks(values: Tensor, flags: Tensor) -> Tensor:
    """Positions, counted from 1, of each row's flagged columns in `row_order`, ascending and padded with infinity.

    Shape:
        `values` [R, N], `flags` bool [R, N]; returns float64 [R, K], K the largest number of flags in a row, at least
        1.

    Example:
        >>> import torch
        >>> flags = torch.tensor([[False, True, True], [True, False, False]])
        >>> flag_ranks(torch.tensor([[0.5, 0.0, 0.7], [0.1, 0.0, 0.2]]), flags).tolist()
        [[1.0, 3.0], [2.0, inf]]
    """
    if values.device.type == "cpu" and values.dtype == torch.float32:
        most = max((int(np.count_nonzero(row)) for row in flags.numpy()), default=0)  # torch's sum of bools is slow
        return _by_pieces(_piece_flag_ranks, np.float64, values, flags, width=max(1, most))
    counts = flags.sum(1)
    width = max(1, int(counts.max()))
    ordered = flags.gather(1, values.sort(dim=1, stable=True).indices)
    ranks = torch.full((len(flags), width), torch.inf, dtype=torch.float64, device=flags.device)
    held = torch.arange(width, device=flags.device) < counts[:, None]
    return ranks.masked_scatter_(held, (ordered.nonzero()[:, 1] + 1).double())


def row_nearest(values: Tensor, k: int) -> Tensor:
    """Return the first k columns of `row_order`, without sorting the rest.

    Shape:
        `values` [R, N], 1 <= k <= N; returns int64 [R, k].

    Example:
        >>> import torch
        >>> row_nearest(torch.tensor([[0.5, 0.0, 0.5, 0.1]]), 3).tolist()
        [[1, 3, 0]]
    """
    if not _has_keys(values):
        return values.sort(dim=1, stable=True).indices[:, :k]
    return _by_pieces(lambda piece, out: _key_nearest(piece, k, out), np.int64, values, width=k)


def row_ranks(values: Tensor, tolerance: float) -> Tensor:
    """Count, for each entry, the entries of its row that are smaller, equal, or larger only by rounding.

    rank_j = #{k : v_k <= v_j + ε|v_j|}, ε the tolerance; NaN is larger than all numbers and equal to NaN.

    Shape:
        `values` [R, N]; returns an integer tensor [R, N].

    Example:
        >>> import torch
        >>> row_ranks(torch.tensor([[0.5, 0.0, 0.5 + 1e-7, 0.6]]), 1e-6).tolist()
        [[3, 1, 3, 4]]
    """
    if values.device.type != "cpu":
        ordered, order = values.sort(dim=1)
        ranks = torch.searchsorted(ordered, ordered + tolerance * ordered.abs(), right=True)
        return torch.empty_like(order).scatter_(1, order, ranks)
    return _by_pieces(lambda piece, out: _piece_ranks(piece, tolerance, out), np.int32, values)


def rank_gaps(ours: Tensor, theirs: Tensor, tolerances: tuple[float, float]) -> Tensor:
    """Sum, for each row, how far apart the `row_ranks` of its entries are in two matrices, in the calling thread alone.

    Shape:
        `ours` and `theirs` [R, N], with a tolerance for each; returns int64 [R].

    Example:
        >>> import torch
        >>> rank_gaps(torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[0.3, 0.2, 0.1]]), (1e-6, 1e-6)).tolist()
        [4]
    """
    if ours.device.type != "cpu":
        return (row_ranks(ours, tolerances[0]) - row_ranks(theirs, tolerances[1])).abs_().sum(1)
    gaps = torch.empty(len(ours), dtype=torch.int64)
    rows = max(1, _PIECE_ENTRIES // ours.shape[1])
    for out, first, second in zip(gaps.split(rows), ours.split(rows), theirs.split(rows), strict=True):
        by_place = np.empty(first.numel(), np.int32)
        order, ranks = _ordered_ranks(np.ascontiguousarray(second.numpy()), tolerances[1])
        by_place[order.reshape(-1)] = ranks.reshape(-1)
        order, ranks = _ordered_ranks(np.ascontiguousarray(first.numpy()), tolerances[0])
        ranks -= by_place.take(order)  # where this side has its entries in order: nothing is put back in place
        torch.sum(torch.from_numpy(np.abs(ranks, out=ranks)), 1, out=out)
    return gaps


def nearest(
    query: Tensor, database: Tensor, metric: DissimilarityName, k: int, *, rows: int, apart: bool = False
) -> Iterator[Tensor]:
    """Yield the k nearest database items of `rows` queries at a time, nearest first; NaN counts as infinitely far.

    With `apart` the database is the queries, and each query is left out of its own neighbours: k is then at most N − 1.

    Shape:
        `query` [Q, D], `database` [N, D]; yields int64 [rows, k], the last block smaller.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> [block.tolist() for block in nearest(x, x, "euclidean", 1, rows=2, apart=True)]
        [[[1], [0]], [[1]]]
    """
    start = 0
    for values in dissimilarity_blocks(query, database, metric, rows):
        if apart:
            values.nan_to_num_(nan=torch.inf, posinf=torch.inf)
            values[:, start : start + len(values)].fill_diagonal_(torch.nan)
            start += len(values)
        yield row_nearest(values, k)


def _has_keys(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.dtype == torch.float32 and not bool((values < 0).any())


def _by_pieces(function: Callable[..., None], dtype: Any, *tensors: Tensor, width: int | None = None) -> Tensor:
    """Let `function` fill blocks of rows, in as many threads as torch has: NumPy sorts without Python's lock."""
    arrays = [np.ascontiguousarray(tensor.numpy()) for tensor in tensors]
    count, columns = arrays[0].shape
    out = np.empty((count, width or columns), dtype)
    rows = max(1, _PIECE_ENTRIES // columns)
    pieces = [slice(start, start + rows) for start in range(0, count, rows)]

    def work(piece: slice) -> None:
        function(*(array[piece] for array in arrays), out[piece])

    workers = min(torch.get_num_threads(), len(pieces))
    if workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, pieces))
    else:
        for piece in pieces:
            work(piece)
    return torch.from_numpy(out)


def _keys(values: Array, flags: Array | None = None) -> Array:
    """Return (bits of the value, position in the block) as uint64; adding 0 turns −0 into 0.

    With flags, the position is that of the column in the row, shifted by one bit, with the flag as its last bit.
    """
    halves = np.empty((*values.shape, 2), np.uint32)
    if flags is None:
        halves[..., _PLACE] = np.arange(values.size, dtype=np.uint32).reshape(values.shape)
    else:
        np.add(np.arange(0, 2 * values.shape[1], 2, dtype=np.uint32), flags, out=halves[..., _PLACE])
    np.add(values, np.float32(0), out=halves.view(np.float32)[..., _VALUE])
    return halves.view(np.uint64)[..., 0]


def _columns(keys: Array, columns: int) -> Array:
    return (keys & _LOW).view(np.int64) - columns * np.arange(len(keys))[:, None]


def _key_order(values: Array, out: Array) -> None:
    out[:] = _columns(_sorted(values), values.shape[1])


def _piece_flag_ranks(values: Array, flags: Array, out: Array) -> None:
    digits = _digits(values) if values.shape[1] >= _LEAST_COUNTED else None
    if digits is not None and not (values < 0).any():
        out[:] = np.inf
        for row, *of_row in zip(out, values, digits, flags, strict=True):
            ranks = _counted_ranks(*of_row)
            row[: len(ranks)] = ranks
        return
    del digits
    keys = _sorted(values, flags)
    if (keys[:, -1] >> _SIGN).any():  # a negative value has the largest bits
        ordered = np.take_along_axis(flags, values.argsort(axis=1, kind="stable"), 1)
    else:
        ordered = (keys.view(np.uint32)[:, _PLACE::2] & np.uint32(1)).astype(np.bool_)
    out[:] = np.inf
    for row, order in zip(out, ordered, strict=True):
        places = np.flatnonzero(order)
        np.add(places, 1, out=row[: len(places)], casting="unsafe")


def _counted_ranks(values: Array, digits: Array, flags: Array) -> Array:
    """Rank the flagged entries of one row: those in lower parts are counted, those in the same part alone are sorted.

    A part that holds a flagged entry has all its entries among the shared ones, and a larger value has no lower part.
    """
    bins = digits[np.flatnonzero(flags)]
    holds = np.zeros(_BINS + 1, np.bool_)
    holds[bins] = True
    shared = np.flatnonzero(holds.take(digits))
    shared_digits = digits.take(shared)
    order = shared_digits.argsort(kind="stable")
    shared_digits, shared = shared_digits.take(order), shared.take(order)
    keys = np.add(shared, shared)
    keys += flags.take(shared)
    np.add(values.take(shared), np.float32(0), out=keys.view(np.float32)[_VALUE::2])
    keys.sort(kind="stable")
    places = np.flatnonzero(keys & 1)
    parts = shared_digits[places]
    held = np.flatnonzero(holds)
    # Summed from one held part to the next: a running sum of all 65,536 parts was a quarter of the time.
    from_held = np.add.reduceat(np.bincount(digits, minlength=_BINS + 1), held)
    lower = len(digits) - from_held[::-1].cumsum()[::-1].take(held.searchsorted(parts))
    within: Array = places - shared_digits.searchsorted(parts)
    return lower + within + 1


def _key_nearest(values: Array, k: int, out: Array) -> None:
    keys = _keys(values)
    keys.partition(k - 1, axis=1)
    first = keys[:, :k]
    first.sort(axis=1)
    out[:] = _columns(first, values.shape[1])


def _sorted(values: Array, flags: Array | None = None) -> Array:
    """Return the sorted `_keys` of each row, by whichever way is faster on this processor; the result is the same.

    NumPy's sort by AVX-512 takes four times as long on AMD's Zen 4 as the one by AVX2. There, a sort by the digits of
    65,535 equal parts of the row's range leaves so little out of order that a merge sort has one pass to do.
    """
    digits = _digits(values)
    if digits is None:
        keys = _keys(values) if flags is None else _keys(values, flags)
        keys.sort(axis=1)
        return keys
    order = digits.argsort(axis=1, kind="stable")
    del digits
    order += values.shape[1] * np.arange(len(order))[:, None]
    ordered = values.reshape(-1).take(order)
    if flags is not None:
        ordered_flags = flags.reshape(-1).take(order)
        order -= values.shape[1] * np.arange(len(order))[:, None]
        order *= 2
        order += ordered_flags
    # A place is below 2³²: the other half of its memory takes the value.
    np.add(ordered, np.float32(0), out=order.view(np.float32)[:, _VALUE::2])
    keys = order.view(np.uint64)
    keys.sort(axis=1, kind="stable")
    return keys


def _digits(values: Array) -> Array | None:
    """Return which of 65,535 equal parts of its row's range each value lies in; None where sorting by them is slow."""
    columns = values.shape[1]
    if columns < _LEAST_BINNED or not _bins_pay():
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        low = values.min(axis=1, keepdims=True)
        spread = values.max(axis=1, keepdims=True) - low
    if not np.isfinite(spread).all() or not (spread > 1e-30).all():
        return None
    bins = values - low
    bins *= np.float32(_BINS) / spread
    digits: Array = bins.astype(np.uint16)
    # A far outlier leaves all others in few parts.
    few = len(np.unique(digits[0, :: columns // _SAMPLED])) < _SAMPLED // 2
    return None if few else digits


@functools.cache
def _bins_pay() -> bool:
    """Whether the way over parts is faster here than NumPy's own sort, tried once a process in some milliseconds."""
    keys = np.random.default_rng(0).permutation(8192).astype(np.uint64)
    digits, times = keys.astype(np.uint16), ([], [])  # type: tuple[Array, tuple[list[float], list[float]]]
    for _ in range(3):
        start = time.perf_counter()
        np.sort(keys)
        middle = time.perf_counter()
        np.sort(keys.take(digits.argsort(kind="stable")), kind="stable")
        times[0].append(middle - start)
        times[1].append(time.perf_counter() - middle)
    return min(times[1]) < min(times[0])


def _piece_ranks(values: Array, tolerance: float, out: Array) -> None:
    order, ranks = _ordered_ranks(values, tolerance)
    out.reshape(-1)[order.reshape(-1)] = ranks.reshape(-1)


def _ordered_ranks(values: Array, tolerance: float) -> tuple[Array, Array]:
    """Return the places in the block of each row's entries in order, and their closed ranks."""
    keys = None
    if values.dtype == np.float32:
        keys = _sorted(values)
        if (keys[:, -1] >> _SIGN).any():  # a negative value has the largest bits
            keys = None
    if keys is None:
        order = values.argsort(axis=1)
        ordered = np.take_along_axis(values, order, 1)
        order += values.shape[1] * np.arange(len(values))[:, None]
    else:
        ordered = keys.view(np.float32)[:, _VALUE::2].copy()
        keys &= _LOW
        order = keys.view(np.int64)
    return order, _closed_ranks(ordered, tolerance)


def _closed_ranks(ordered: Array, tolerance: float) -> Array:
    """Rank sorted rows: the position of the last entry that is not larger, or larger only by rounding."""
    columns = ordered.shape[1]
    ranks = np.empty(ordered.shape, np.int32)
    ranks[:] = np.arange(1, columns + 1, dtype=np.int32)
    flat, flat_ranks = ordered.reshape(-1), ranks.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        bound = flat * flat.dtype.type(tolerance)
        np.abs(bound, out=bound)
        bound += flat
        # Few entries are equal to another up to rounding, even fewer to two: count the first neighbours over whole
        # rows, further ones only where there are any, and search for the ends of long runs of equal values.
        close = _close(flat, bound, columns, 1)
        flat_ranks[:-1] += close
        close = close[:-1] & _close(flat, bound, columns, 2)
        flat_ranks[:-2] += close
        places = np.flatnonzero(close)
        for step in range(3, _STEPS):
            places = places[(places + step) % columns >= step]
            places = places[flat[places + step] <= bound[places]]
            flat_ranks[places] += 1
    rows, places = np.divmod(places, columns)
    for row in np.unique(rows):
        run = row * columns + places[rows == row]
        flat_ranks[run] = ordered[row].searchsorted(bound[run], side="right")
    if np.isnan(ordered[:, -1]).any():
        ranks[np.isnan(ordered)] = columns
    return ranks


def _close(flat: Array, bound: Array, columns: int, step: int) -> Array:
    """Whether the entry `step` columns further on is within the bound."""
    close: Array = flat[step:] <= bound[:-step]
    for last in range(1, min(step, columns) + 1):
        close[columns - last :: columns] = False
    return close
