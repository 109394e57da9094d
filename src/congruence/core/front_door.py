"""A package whose names are found on first use, so that importing it imports nothing of what lies behind it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def on_first_use(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package.

    Args:
        package: its name.
        homes: the names that each module gives.

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
