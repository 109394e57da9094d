"""The position of a run in its training."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


class Position:
    """The epoch, the batch within it, the optimizer step, and the seconds of training over all resumptions."""

    def __init__(self) -> None:
        self.epoch = self.batch = self.step = 0
        self._seconds, self._since = 0.0, time.monotonic()

    def seconds(self) -> float:
        """Return the seconds of training so far."""
        return round(self._seconds + time.monotonic() - self._since, 3)

    def after_step(self, batches: int) -> None:
        """Count a step of the given number of batches; the last step of an epoch may have fewer batches."""
        self.step += 1
        self.batch += batches

    def after_epoch(self) -> None:
        """Count an epoch."""
        self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position as plain numbers."""
        return {"epoch": self.epoch, "batch": self.batch, "step": self.step, "seconds": self.seconds()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; the clock continues from now."""
        self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]
        self._seconds, self._since = state["seconds"], time.monotonic()
