"""Rows that packages add to our tables, through entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TypeVar

T = TypeVar("T")


def contributed(group: str, kind: type[T], what: str) -> list[T]:
    """Load the rows of all packages in a group of entry points.

    Args:
        group: "congruence.methods", for one.
        kind: of a row.
        what: it is called in the sentence that refuses another thing.

    Raises:
        ValueError: for an entry point that names another thing.

    Example:
        >>> contributed("congruence.no_such_group", str, "text")
        []
    """
    rows = []
    for point in entry_points(group=group):
        row = point.load()
        if not isinstance(row, kind):
            raise ValueError(f"The entry point '{point.name}' of {group} must name a {what}, got {type(row).__name__}.")
        rows.append(row)
    return rows
