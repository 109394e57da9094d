"""Code of the user's own, named in text: imported only where it is trusted."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from congruence.core import check


def import_callable(target: str, *, what: str, trust: bool) -> Callable[..., Any]:
    """Import what "package.module:name" names; `name` may lead into a class.

    Args:
        target: the text.
        what: it is, in sentences: "factory".
        trust: whether it may be imported, which runs its module.

    Raises:
        ValueError: without trust, or where it is not there or cannot be called.

    Example:
        >>> import_callable("math:hypot", what="factory", trust=True)(3, 4)
        5.0
    """
    if not trust:
        raise ValueError(f"The {what} '{target}' imports and runs code of yours: allow it with trust=True, or --trust.")
    module_name, _, name = target.partition(":")
    try:
        value: Any = importlib.import_module(module_name)
    except ImportError as error:
        hint = " A module is named without '.py'." if module_name.endswith(".py") else ""
        raise ValueError(f"The {what} '{target}' cannot be imported: {error}.{hint}") from error
    for part in name.split("."):
        if not hasattr(value, part):
            raise ValueError(f"The {what} '{target}' is not there.{check.near(part, dir(value))}")
        value = getattr(value, part)
    if not callable(value):
        raise ValueError(f"The {what} '{target}' must be callable, got {type(value).__name__}.")
    return value
