"""What a term changes before its method compares: the logits (`ChangedLogits`), or the student's width (`Prefixes`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from congruence.core import check
from congruence.methods.changed_logits import CHECKS, ChangedLogits
from congruence.methods.method import Method
from congruence.methods.prefixes import Prefixes, check_dims

CHANGES = (*CHECKS, "dims")


def check_changes(values: Mapping[str, Any]) -> None:
    """Raise a ValueError for a value of a change that is not allowed."""
    check.hyperparameters("Term", CHECKS, **{name: values[name] for name in CHECKS})
    if values["dims"] is not None:
        check_dims("Term", values["dims"])


def changed(make: Callable[[], Method], changes: Mapping[str, Any]) -> Method:
    """Return the method that `make` makes, with a term's changes.

    Raises:
        ValueError: if the method does not read what is changed.
    """
    of_logits = {name: value for name, value in changes.items() if name in CHECKS}
    if changes.get("dims") is None:
        return ChangedLogits(make(), **of_logits) if of_logits else make()
    if of_logits:
        names = " and ".join(f"`{name}`" for name in of_logits)
        raise ValueError(f"`Term`: {names} must be left out beside `dims`, which is of features.")
    return Prefixes([make() for _ in changes["dims"]], changes["dims"])
