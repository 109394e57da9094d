"""Work on blocks of rows in as many threads as torch has, each of which runs torch on itself alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")


def share_out(work: Callable[[Piece], None], pieces: Iterable[Piece], device: torch.device | None = None) -> None:
    """Call `work` for every piece, without gradients, in `torch.get_num_threads()` threads; on a GPU in the caller's.

    For work that NumPy or small products do: both let go of Python's lock. A thread's own torch operations use that
    thread alone, so that n threads use n cores, and a process with one thread (a worker of a plan) starts none.
    `torch.set_num_threads` is the only knob. An error in a piece is raised here.

    Example:
        >>> import torch
        >>> out = torch.zeros(4)
        >>> share_out(lambda place: out[place].fill_(place), range(4))
        >>> out.tolist()
        [0.0, 1.0, 2.0, 3.0]
    """
    listed, threads = list(pieces), torch.get_num_threads()
    workers = min(threads, len(listed)) if device is None or device.type == "cpu" else 1
    if workers <= 1:
        with torch.no_grad():
            for piece in listed:
                work(piece)
        return

    def alone(piece: Piece) -> None:
        with torch.no_grad():  # the mode belongs to a thread
            work(piece)

    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(alone, listed))
    finally:
        torch.set_num_threads(threads)  # a thread's number is also that of threads to come
