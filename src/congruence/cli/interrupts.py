"""Ctrl-C while the program is still being imported, or already ends: one line at most, never a traceback."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """End the process with a line and status 130 where Ctrl-C comes; for a time in which nothing is written."""
    try:
        before = signal.signal(signal.SIGINT, _end)
    except ValueError:  # in another thread, where no signal arrives
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"Interrupted.\n")
    os._exit(INTERRUPTED)
