"""Pairs of student and teacher tokens: equal numbers on both sides, a common mask, and their grid in an image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from congruence.methods.method import Signals
from congruence.models.tokens import Size, tokens_alike


class TokenPair(NamedTuple):
    """One layer's tokens [B, N, D_s] of the student and [B, N, D_t] of the teacher.

    `real` is bool [B, N], None if all tokens are real; `grid` is (rows, columns), None if unknown.
    """

    student: Tensor
    teacher: Tensor
    real: Tensor | None
    grid: Size | None


def token_pairs(signals: Signals, view: str = "main") -> list[TokenPair]:
    """Return the tokens of student and teacher, layer by layer; the larger of two grids is averaged to the smaller.


    Raises:
        ValueError: for different numbers of tokens without a known grid.

    Example:
        >>> key = ("student", "main", "tokens"), ("teacher", "main", "tokens")
        >>> fine, coarse = torch.ones(2, 16, 3), torch.ones(2, 4, 5)
        >>> grids = {key[0]: ((4, 4),), key[1]: ((2, 2),)}
        >>> (pair,) = token_pairs(Signals({key[0]: (fine,), key[1]: (coarse,)}, ("student",), grids=grids))
        >>> pair.student.shape, pair.teacher.shape, pair.grid
        (torch.Size([2, 4, 3]), torch.Size([2, 4, 5]), (2, 2))
    """
    keys = [(model, view, "tokens") for model in ("student", "teacher")]
    pairs = []
    for at, (student, teacher) in enumerate(signals.pairs("tokens", view)):
        nothing = (None,) * (at + 1)
        grids = [signals.grids.get(key, nothing)[at] for key in keys]
        masks = [mask for key in keys if (mask := signals.masks.get(key, nothing)[at]) is not None]
        known = [grid for grid in grids if grid is not None]
        grid = (min(rows for rows, _ in known), min(columns for _, columns in known)) if known else None
        real = torch.stack(masks).all(0) if masks else None
        pairs.append(TokenPair(*tokens_alike(student, teacher, *grids), real, grid))
    return pairs
