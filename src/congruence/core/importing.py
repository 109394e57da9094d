"""Code of the user's own, named in text: imported only where it is trusted."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from congruence.core import check


class UntrustedError(ValueError):
    """Code of the user's own is named that is not trusted."""


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
        raise UntrustedError(
            f"The {what} '{target}' imports and runs code of yours: allow it with trust=True, or --trust."
        )
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
    """Return what "package.module:name", called with options, gives.

    Args:
        target: the text.
        options: keyword arguments.
        what: it is, in sentences: "factory".
        trust: as of `import_callable`.

    Raises:
        ValueError: in one sentence, as of `import_callable`; for options that it does not take; for whatever it raises.

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
    except Exception as error:  # of the user's code, whatever it is
        raise ValueError(f"The {what} '{target}' failed with {check.sentence(error)}") from error
