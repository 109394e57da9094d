"""SIGTERM, with which a cluster's scheduler announces that a process must end soon."""

from __future__ import annotations

import contextlib
import signal
from typing import Any, Self


class Sigterm:
    """Records the signal inside a block instead of ending the process; the earlier handler is restored afterwards."""

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
