"""Packages whose names are imported on first use, so that importing the package itself is quick."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def on_first_use(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return a package's `__getattr__`, which imports each name on first use.

    Args:
        package: the package's name.
        homes: for each module, the names that it provides.

    Example:
        >>> find = on_first_use("numbers_of_mine", {"math": ("pi", "e")})
        >>> find("e")
        2.718281828459045
        >>> find("tau")
        Traceback (most recent call last):
        AttributeError: module 'numbers_of_mine' has no attribute 'tau'
    """
    home_of = {name: module for module, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(importlib.import_module(home_of[name]), name)

    return find
