"""The meaning of a tensor's dimensions, written in letters, and the order in which methods see them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from congruence.core import check
from congruence.core.devices import tensors

POSITIONS = "NTDHW"  # in the order in which maps have them
FEWEST, MOST = 2, 5  # dimensions of a tensor whose layout can be told
MAPS = 4  # from so many dimensions on, channels come before positions


def layout_of(dimensions: int, channels: int, *, batch: int = 0) -> str:
    """Write the layout of a tensor whose batch and channels lie where they are said to.

    Example:
        >>> layout_of(3, 1), layout_of(3, 2), layout_of(3, 2, batch=1), layout_of(4, 3)
        ('BCN', 'BNC', 'NBC', 'BHWC')
    """
    positions = iter({0: "", 1: "N", 2: "HW", 3: "DHW"}[dimensions - 2])
    axes = range(dimensions)
    return "".join("B" if axis == batch else "C" if axis == channels else next(positions) for axis in axes)


def check_layout(function: str, argument: str, layout: Any) -> None:
    """Raise a clear error for an invalid layout.

    Example:
        >>> check_layout("Term", "layout", "BDT")
        Traceback (most recent call last):
        ValueError: `Term`: `layout` must be 2 to 5 letters with B (batch) and C (channels) once each, and N or T \
(tokens, time), H, W and D (depth) at most once, as in 'BTC' or 'BCHW', got 'BDT'.
    """
    if (
        not isinstance(layout, str)
        or not FEWEST <= len(layout) <= MOST
        or len(set(layout)) != len(layout)
        or not set("BC") <= set(layout) <= set("BC" + POSITIONS)
    ):
        wanted = (
            f"{FEWEST} to {MOST} letters with B (batch) and C (channels) once each, and N or T (tokens, time), H, W "
            "and D (depth) at most once, as in 'BTC' or 'BCHW'"
        )
        check.fail(function, argument, wanted, repr(layout))


def order(layout: str) -> tuple[int, ...]:
    """Return the axes of a layout in the order in which methods see them: [B, C], [B, N, C], [B, C, ...positions].

    Example:
        >>> order("BCT"), order("TBC"), order("BHWC")
        ((0, 2, 1), (1, 0, 2), (0, 3, 1, 2))
    """
    positions = "".join(letter for letter in POSITIONS if letter in layout)
    wanted = f"BC{positions}" if len(layout) >= MAPS else f"B{positions}C"
    return tuple(layout.index(letter) for letter in wanted)


def is_plain(layout: str) -> bool:
    """Whether a tensor of this layout is as methods see it."""
    return order(layout) == tuple(range(len(layout)))


def canonical(tensor: Tensor, layout: str) -> Tensor:
    """Return a tensor with its dimensions as methods see them; one that has them so is returned itself.

    Example:
        >>> canonical(torch.ones(2, 8, 20), "BCT").shape, canonical(torch.ones(2, 7, 7, 96), "BHWC").shape
        (torch.Size([2, 20, 8]), torch.Size([2, 96, 7, 7]))
    """
    return tensor if is_plain(layout) else tensor.permute(order(layout))


def canonical_shape(shape: Sequence[int], layout: str) -> torch.Size:
    """Return the shape of what `canonical` gives.

    Example:
        >>> canonical_shape([2, 8, 20], "BCT")
        torch.Size([2, 20, 8])
    """
    return torch.Size([shape[axis] for axis in order(layout)])


def batch_sizes(inputs: Any, *, second: bool = False) -> frozenset[int]:
    """Return how many samples some inputs may hold: the first dimensions of their tensors.

    Args:
        inputs: as a model takes them.
        second: whether they may have the batch second, as time-first ones do.

    Example:
        >>> sorted(batch_sizes((torch.ones(4, 3), torch.ones(4))))
        [4]
        >>> sorted(batch_sizes(torch.ones(6, 4, 3), second=True))
        [4, 6]
    """
    if isinstance(inputs, PackedSequence):
        return frozenset([int(inputs.batch_sizes[0])])
    given = [tensor.shape for tensor in tensors(inputs) if not tensor.is_nested and tensor.dim()]
    ends: Iterable[int] = (1, 2) if second else (1,)
    return frozenset(int(shape[end - 1]) for end in ends for shape in given if len(shape) >= end)


def check_rows(what: str, shape: Sequence[int], samples: frozenset[int], layout: str = "") -> None:
    """Refuse a tapped tensor that has not one row a sample; rows [k·B, C] may be k for each, as of flattened tokens.

    Args:
        what: the layer, for the sentence.
        shape: as it is tapped.
        samples: how many there may be; where nothing tells, nothing is refused.
        layout: of the tensor; "" for the batch first.

    Raises:
        ValueError: with a way on.
    """
    axis = layout.index("B") if layout else 0
    if not samples or shape[axis] in samples:
        return
    if len(shape) == 2 and any(size and shape[axis] % size == 0 for size in samples):
        return
    batch = " or ".join(map(str, sorted(samples)))
    fitting = [other for other in range(len(shape)) if shape[other] in samples]
    rows = f"{shape[axis]} rows for a batch of {batch}"
    if axis:
        rows = (
            f"its layer says that its dimension {axis} is the batch, of {shape[axis]} where there are {batch} samples"
        )
        way = (
            "if that is so, name the layout, as in Term(..., layout='TBC'); if not, make the layer with "
            "batch_first=True, or name layout='BTC'"
        )
    elif len(fitting) == 1 and len(shape) == 3:
        way = f"if its dimension {fitting[0]} is the batch, name the layout, as in Term(..., layout='"
        way += "TBC')" if fitting == [1] else "TCB')"
    else:
        way = "read a layer that gives one row a sample, or name its layout with Term(..., layout=...)"
    raise ValueError(f"{what} gives {list(shape)}, {rows}: {way}.")
