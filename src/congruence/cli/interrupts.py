"""Ctrl-C while the program is still importing or already exiting: at most one line, no traceback."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """End the process with a line and status 130 on Ctrl-C; for times in which nothing is being written."""
    try:
        before = signal.signal(signal.SIGINT, _end)
    except ValueError:  # in a thread that gets no signals
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
