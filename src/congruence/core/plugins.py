"""Rows that other packages add to our tables through entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TypeVar

T = TypeVar("T")


def contributed(group: str, kind: type[T], what: str) -> list[T]:
    """Load the rows of all packages in a group of entry points.

    Args:
        group: the group's name, such as "congruence.methods".
        kind: the class of a row.
        what: what the error calls a row.

    Raises:
        ValueError: for an entry point that names anything but such a row.

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
