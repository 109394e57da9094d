"""The state of a run: named parts, each of which saves itself and loads itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from congruence.core import ranks, rng


class Stateful(Protocol):
    """A part of a run that a checkpoint keeps: modules and optimizers are such, and what this package adds."""

    def state_dict(self) -> Any:
        """Return all that decides the coming steps, as tensors and plain values."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Restore `state_dict`."""


class RefusedError(ValueError):
    """A part will not go on from a state, and its sentence says why."""


def kept(value: Any) -> Any:
    """Return a copy of a part of a module's state: a tensor on the host, or what `get_extra_state` gives."""
    return value.detach().cpu().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


Parts = Mapping[str, Stateful]


def state_of(parts: Parts) -> dict[str, Any]:
    """Return the state of all parts by name; every rank must call it."""
    return {name: part.state_dict() for name, part in parts.items()}


def load_parts(parts: Parts, state: Mapping[str, Any], *, out: Any) -> None:
    """Restore the parts in their order.

    Raises:
        ValueError: where a part is not there, does not fit, or refuses.
    """
    for name, part in parts.items():
        try:
            part.load_state_dict(state[name])
        except RefusedError:
            raise
        except Exception as error:  # a part of an older file, or of the caller's, can fail in any way
            reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise ValueError(
                f"The checkpoint in '{out}' is of other models or methods: {reason} (in '{name}')"
            ) from None


class Generators:
    """The process's own random generators, of every rank."""

    def state_dict(self) -> dict[str, Any]:
        """Return the generators of all ranks; every rank must call it."""
        return {"ranks": ranks.from_all_ranks(rng.get_state())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore this rank's."""
        rng.set_state(state["ranks"][ranks.rank()])


class History:
    """The validation numbers of every epoch so far."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers, an epoch each."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        self.epochs = list(state["epochs"])
