"""A small schema for JSON values: what a reader needs in a file, and a description of what does not fit."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

# A kind is: a type (float accepts whole numbers too, object anything); [kind], a list; (kind, ...), one of these or
# null; or a mapping, a table with these keys ("key?" may be absent, "*" stands for any key).
Kind = Any
ANY_TABLE: Kind = {"*": object}
_WORDS = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}


def fault(value: Any, kind: Kind, key: str = "") -> str:
    """Describe in a clause where a value does not fit a kind; "" if it fits.

    Example:
        >>> fault({"seconds": "12"}, {"seconds": float}), fault({}, {"seconds": float}), fault({}, {"seconds?": float})
        ("'seconds' is '12', not a number", "'seconds' is missing", '')
        >>> fault({"a": [1, None]}, {"*": [int]}), fault(None, (int,))
        ("'a.1' is null, not a whole number", '')
    """
    if isinstance(kind, tuple):
        faults = [fault(value, each, key) for each in kind]
        return "" if value is None or "" in faults else faults[0]
    if isinstance(kind, list):
        if not isinstance(value, list | tuple):
            return _not(value, "a list", key)
        return next(filter(None, (fault(item, kind[0], _below(key, str(at))) for at, item in enumerate(value))), "")
    if isinstance(kind, Mapping):
        return _table_fault(value, kind, key)
    fits = isinstance(value, int | float if kind is float else kind)
    return "" if fits and (kind in (bool, object) or not isinstance(value, bool)) else _not(value, _WORDS[kind], key)


def _table_fault(value: Any, kind: Mapping[str, Kind], key: str) -> str:
    if not isinstance(value, dict):
        return _not(value, "a table", key)
    named = {name.removesuffix("?") for name in kind}
    for name, of_name in kind.items():
        bare = name.removesuffix("?")
        if name == "*":
            each = (fault(item, of_name, _below(key, own)) for own, item in value.items() if own not in named)
            wrong = next(filter(None, each), "")
        elif bare in value:
            wrong = fault(value[bare], of_name, _below(key, bare))
        else:
            wrong = "" if name.endswith("?") else f"'{_below(key, bare)}' is missing"
        if wrong:
            return wrong
    return ""


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _not(value: Any, expected: str, key: str) -> str:
    got = "null" if value is None else str(value).lower() if isinstance(value, bool) else reprlib.repr(value)
    return f"'{key}' is {got}, not {expected}" if key else f"it is {got}, not {expected}"
