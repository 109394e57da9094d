"""The table of methods: one frozen row each. A package adds rows through the entry-point group `congruence.methods`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

from congruence.core import check
from congruence.core.plugins import contributed
from congruence.methods.rows import Row
from congruence.methods.rows_compared import COMPARED
from congruence.methods.rows_founding import FOUNDING
from congruence.methods.rows_modern import MODERN
from congruence.methods.rows_recent import RECENT

GROUP = "congruence.methods"
ROWS: tuple[Row, ...] = COMPARED + FOUNDING + MODERN + RECENT


def table(rows: tuple[Row, ...]) -> Mapping[str, Row]:
    """Index rows by key; a key that occurs twice raises."""
    index: dict[str, Row] = {}
    for entry in rows:
        if entry.key in index:
            raise ValueError(f"The catalogue has two rows with the key '{entry.key}'.")
        index[entry.key] = entry
    return MappingProxyType(index)


@functools.cache
def _all() -> Mapping[str, Row]:
    return table((*ROWS, *contributed(GROUP, Row, "catalogue Row")))


def keys() -> tuple[str, ...]:
    """Return the keys of all rows, the library's own first."""
    return tuple(_all())


def row(key: str) -> Row:
    """Return the row with this key; an unknown one lists near matches.

    Example:
        >>> row("ptkk")
        Traceback (most recent call last):
        ValueError: Unknown method 'ptkk'. Did you mean 'pkt'? `congruence methods` lists them all.
    """
    if key not in _all():
        near = check.near(key, keys())
        own = "" if near else " One of your own is found by its package's entry point, once that is installed."
        raise ValueError(f"Unknown method '{key}'.{near} `congruence methods` lists them all.{own}")
    return _all()[key]
