"""Rows that come in batches and are held once: no list of them is joined where it is known how many will come."""

from __future__ import annotations

import torch
from torch import Tensor


class Gathered:
    """Rows of batches, in one tensor from the first batch on where the number of batches is known.

    Example:
        >>> rows = Gathered()
        >>> for batch in torch.arange(6.0)[:, None].split(4):
        ...     rows.add(batch, 2)
        >>> rows.joined()[:, 0].tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """

    def __init__(self) -> None:
        self._held: Tensor | None = None
        self._filled = 0
        self._beyond: list[Tensor] = []

    def __bool__(self) -> bool:
        return bool(self._filled or self._beyond)

    def add(self, rows: Tensor, batches: int | None) -> None:
        """Take the rows [B, D] of a batch; `batches` of about this size are said to come, None if nobody says."""
        if batches is not None and self._held is None and not self._beyond:
            # What is not filled is never touched, and takes no memory.
            self._held = rows.new_empty(max(1, batches) * len(rows), *rows.shape[1:])
        held = self._held
        fits = held is not None and held.shape[1:] == rows.shape[1:] and self._filled + len(rows) <= len(held)
        if held is None or self._beyond or not fits:
            self._beyond.append(rows)
            return
        held[self._filled : self._filled + len(rows)] = rows
        self._filled += len(rows)

    def joined(self) -> Tensor:
        """Return all rows in their order."""
        held = [] if self._held is None else [self._held[: self._filled]]
        return held[0] if held and not self._beyond else torch.cat([*held, *self._beyond])
