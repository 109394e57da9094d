"""Cells that fail: the sentence with the reason, and rows that have it instead of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

Row = TypeVar("Row", bound=Mapping[str, Any])
FAILED = "failed"  # the key of such a row
_LONGEST = 400


def sentence(error: BaseException) -> str:
    """Describe in one line why something failed.

    Example:
        >>> sentence(ValueError("`fit`: `epochs` must be > 0,\\n got 0.")), sentence(KeyError("a"))
        ('`fit`: `epochs` must be > 0, got 0.', "Unexpected KeyError: 'a'.")
    """
    text = " ".join(str(error).split())[:_LONGEST]
    known = isinstance(error, ValueError) or type(error).__module__.startswith("congruence.")
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: '{error.filename}'." if error.filename else f"{error.strerror}."
    return text if known and text else f"Unexpected {type(error).__name__}{f': {text}' if text else ''}."


def whole(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that have numbers.

    Example:
        >>> whole([{"method": "ce", "failed": "It was killed."}, {"method": "kd"}])
        [{'method': 'kd'}]
    """
    return [row for row in rows if FAILED not in row]


def failures(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for each row that failed, with its name and the reason.

    Example:
        >>> failures([{"method": "ce", "variant": "few", "seed": 1, "failed": "It was killed."}, {"method": "kd"}])
        ['failed: ce few, seed 1: It was killed.']
    """
    lines = []
    for row in rows:
        if FAILED in row:
            name = " ".join(part for part in (row["method"], row.get("variant")) if part)
            lines.append(f"failed: {name}, seed {row['seed']}: {row[FAILED]}")
    return lines
