"""The state of a run: named parts, each with `state_dict` and `load_state_dict`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from congruence.core import ranks, rng


class Stateful(Protocol):
    """A part of a run that a checkpoint stores: modules, optimizers, and parts of this package."""

    def state_dict(self) -> Any:
        """Return everything that determines the coming steps, as tensors and plain values."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Restore `state_dict`."""


class RefusedError(ValueError):
    """A part refuses to load a state; the message says why."""


def kept(value: Any) -> Any:
    """Return a copy of a part of a module's state: a tensor on the host, or a result of `get_extra_state`."""
    return value.detach().cpu().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


Parts = Mapping[str, Stateful]


def state_of(parts: Parts) -> dict[str, Any]:
    """Return the state of all parts by name; every rank must call it."""
    return {name: part.state_dict() for name, part in parts.items()}


def load_parts(parts: Parts, state: Mapping[str, Any], *, out: Any) -> None:
    """Restore the parts in order.


    Raises:
        ValueError: if a part is missing, does not fit, or refuses.
    """
    for name, part in parts.items():
        try:
            part.load_state_dict(state[name])
        except RefusedError:
            raise
        except Exception as error:  # parts of older files, or of the caller, can raise anything
            reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise ValueError(
                f"The checkpoint in '{out}' is of other models or methods: {reason} (in '{name}')"
            ) from None


class Generators:
    """The random generators of every rank's process."""

    def state_dict(self) -> dict[str, Any]:
        """Return the generators of all ranks; every rank must call it."""
        return {"ranks": ranks.from_all_ranks(rng.get_state())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore this rank's."""
        if len(state["ranks"]) == ranks.world_size():  # a run with sharded students may have had another number
            rng.set_state(state["ranks"][ranks.rank()])


class History:
    """The validation numbers of every epoch so far."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers, one entry for each epoch."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        self.epochs = list(state["epochs"])
