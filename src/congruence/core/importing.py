"""User code named by text: imported only with trust."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from congruence.core import check


class UntrustedError(ValueError):
    """User code is named without trust being given."""


def import_callable(target: str, *, what: str, trust: bool) -> Callable[..., Any]:
    """Import the callable named by "package.module:name"; `name` may be dotted, as for a method of a class.

    Args:
        target: the text "package.module:name".
        what: what errors call the target, "factory" for example.
        trust: whether the module may be imported, which runs its code.

    Raises:
        ValueError: without trust, or if the target does not exist or is not callable.

    Example:
        >>> import_callable("math:hypot", what="factory", trust=True)(3, 4)
        5.0
    """
    if not trust:
        raise UntrustedError(f"The {what} '{target}' imports and runs your code: allow it with trust=True, or --trust.")
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


def made_by(target: str, options: Mapping[str, Any], *, what: str, trust: bool) -> Any:
    """Call "package.module:name" with options, and return the result.

    Args:
        target: the text "package.module:name".
        options: keyword arguments.
        what: what errors call the target, "factory" for example.
        trust: see `import_callable`.

    Raises:
        ValueError: see `import_callable`; also for options that the callable does not take, and for any error it
            raises.

    Example:
        >>> made_by("fractions:Fraction", {"numerator": 3, "denominator": 4}, what="factory", trust=True)
        Fraction(3, 4)
    """
    make = import_callable(target, what=what, trust=trust)
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        raise ValueError(
            f"The {what} '{target}' cannot be called with the options {dict(options)}: {error}; its arguments belong "
            "into the options of its table (options = { NAME = VALUE })."
        ) from None
    except ValueError:  # built into Python, without a signature
        pass
    try:
        return make(**options)
    except Exception as error:  # the user's code may raise anything
        raise ValueError(f"The {what} '{target}' failed with {check.sentence(error)}") from error
