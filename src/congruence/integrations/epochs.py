"""A distiller's epochs in a loop of another library, which may be interrupted anywhere and go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from congruence.distiller import Distiller
from congruence.methods.method import Clock


class Epochs:
    """Tells a distiller of each epoch's beginning and end once, in a run that a checkpoint has cut in two as well.

    An epoch that was begun before the checkpoint is gone on with; one whose end the checkpoint came before is ended
    when the next one begins.

    Args:
        distiller: whose terms are told.

    Example:
        >>> import torch
        >>> distiller = Distiller(None, torch.nn.Linear(4, 3), ["ce"], example=torch.ones(2, 4))
        >>> epochs = Epochs(distiller)
        >>> epochs.begin(Clock(epoch=3))
        >>> again = Epochs(Distiller(None, torch.nn.Linear(4, 3), ["ce"], example=torch.ones(2, 4)))
        >>> again.load_state_dict(epochs.state_dict())
        >>> again.distiller.clock.epoch, again.open
        (3, True)
    """

    def __init__(self, distiller: Distiller) -> None:
        self.distiller = distiller
        self.open = False  # whether an epoch has begun and not ended

    def is_in(self, epoch: int) -> bool:
        """Return whether an epoch is the one that is open."""
        return self.open and self.distiller.clock.epoch == epoch

    def begin(self, clock: Clock) -> None:
        """Begin an epoch, or go on in the one that is open."""
        if self.is_in(clock.epoch):
            self.distiller.resume_epoch(self.distiller.clock)
            return
        self.end()
        self.distiller.begin_epoch(clock)
        self.open = True

    def end(self) -> None:
        """End the epoch that is open, if one is."""
        if self.open:
            self.distiller.end_epoch()
        self.open = False

    def state_dict(self) -> dict[str, Any]:
        """Return where the run is, as plain values."""
        return {"clock": list(self.distiller.clock), "open": self.open}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        self.open = state_dict["open"]
        clock = Clock(*state_dict["clock"])
        if self.open:
            self.distiller.resume_epoch(clock)
        else:
            self.distiller.clock = clock


class Terms:
    """All of a distiller that is not the students': the terms' parts and memories, balanced weights, and its epochs.

    Args:
        epochs: of the distiller.
    """

    def __init__(self, epochs: Epochs) -> None:
        self.epochs, self.distiller = epochs, epochs.distiller

    def state_dict(self) -> dict[str, Any]:
        """Return all that decides the coming steps beside the students, the optimizer and the generators."""
        methods, balance = self.distiller.methods.state_dict(), self.distiller.balance.state_dict()
        return {"methods": methods, "balance": balance, "epochs": self.epochs.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            ValueError: for the state of other terms.
        """
        try:
            self.distiller.methods.load_state_dict(state_dict["methods"])
            self.distiller.balance.load_state_dict(state_dict["balance"])
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"The checkpoint is of other terms: {' '.join(str(error).split())}") from None
        self.epochs.load_state_dict(state_dict["epochs"])
