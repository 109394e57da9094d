"""What ranks exchange, counted: calls, bytes and seconds by what they are for."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Traffic:
    """Counts of this package's own exchanges between ranks, by what they are for; DDP's own are not in it.

    Attributes:
        calls: collective calls.
        bytes: what this rank must receive at the least: (R - 1)·n to gather n bytes of each of R ranks, 2·(R - 1)/R·n
            to sum them. Objects, whose sizes only torch knows, count 0.
        seconds: time within the calls, that is waiting for other ranks and the exchange itself. On a GPU, calls return
            before they are done.
    """

    calls: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)


_NOW: ContextVar[Traffic | None] = ContextVar("congruence_traffic", default=None)


@contextlib.contextmanager
def counting() -> Iterator[Traffic]:
    """Count this rank's exchanges within the block, and those of the backward of what was gathered in it.

    Example:
        >>> from congruence.core.ranks import any_rank
        >>> import torch
        >>> with counting() as traffic:
        ...     flag = any_rank(torch.tensor(True))
        >>> sum(traffic.calls.values())  # a single process exchanges nothing
        0
    """
    traffic = Traffic()
    token = _NOW.set(traffic)
    try:
        yield traffic
    finally:
        _NOW.reset(token)


def counting_now() -> Traffic | None:
    """Return the counts that are being taken, None outside of `counting`."""
    return _NOW.get()


@contextlib.contextmanager
def counted(traffic: Traffic | None, name: str, size: int, *, calls: int = 1) -> Iterator[None]:
    """Count the exchange in the block; a backward runs in another thread, so it brings the counts along."""
    if traffic is None:
        yield
        return
    begun = time.perf_counter()
    yield
    traffic.seconds[name] = traffic.seconds.get(name, 0.0) + time.perf_counter() - begun
    traffic.calls[name] += calls
    traffic.bytes[name] += size


def reduced(tensor: Tensor, world: int) -> int:
    """Return the bytes that a rank must receive at the least for a tensor's sum over ranks."""
    return 2 * (world - 1) * tensor.numel() * tensor.element_size() // world
