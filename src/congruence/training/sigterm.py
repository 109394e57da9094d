"""SIGTERM, by which a scheduler says that a process must end soon."""

from __future__ import annotations

import contextlib
import signal
from typing import Any, Self


class Sigterm:
    """Notes the signal while it is entered, instead of ending the process; the handler before comes back after it."""

    def __init__(self) -> None:
        self.received = False
        self._before: Any = None

    def __enter__(self) -> Self:
        with contextlib.suppress(ValueError):  # only the main thread may install a handler
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_: object) -> None:
        self.received = True
