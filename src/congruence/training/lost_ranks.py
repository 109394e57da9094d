"""A rank that fails, is killed or hangs ends the others with a sentence that names it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import torch.distributed as dist
from torch.distributed import distributed_c10d

from congruence.core import check
from congruence.core.ranks import rank, world_size

GRACE = 5.0  # seconds in which the ranks that are still there say so
_MARKS = ("gloo/", "NCCL", "c10d")  # in the text of an error that a collective raises


class LostRankError(RuntimeError):
    """Another rank no longer takes part; the message names it."""


class LostRanks:
    """Leaves in the process group's store why this rank ends, and says of an exchange that fails who was missing.

    A rank that raises leaves its error, one that waited in vain leaves that; a rank that leaves nothing within `GRACE`
    was killed or hangs. What a rank raises by itself passes unchanged.

    Args:
        timeout: seconds after which an exchange with a rank that does not answer fails; None for the process group's
            own (30 minutes with gloo, 10 with nccl, unless it was set up with another).
    """

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self._step: Callable[[], int] | None = None
        self._told = False
        self._store: Any = None
        self._place = ""

    def __enter__(self) -> Self:
        if world_size() > 1:
            if self.timeout is not None:
                distributed_c10d._set_pg_timeout(timedelta(seconds=self.timeout))
            try:
                self._store = distributed_c10d._get_default_store()
                number = self._store.add(f"congruence/fits/{rank()}", 1)
                self._place = f"congruence/fits/{number}"
            except (AttributeError, RuntimeError, ValueError):  # a group without a store
                self._store = None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            self._ended(error)

    @contextlib.contextmanager
    def in_steps(self, step: Callable[[], int]) -> Iterator[None]:
        """Name a rank lost within the block too, with the step.

        The run still holds SIGTERM off there, with which torchrun ends the other ranks at once.
        """
        self._step = step
        try:
            yield
        except BaseException as error:
            self._ended(error)
            raise

    def _ended(self, error: BaseException) -> None:
        """Leave why this rank ends, once; raise for an exchange that has failed."""
        if self._store is None or self._told or isinstance(error, SystemExit | GeneratorExit):
            return
        self._told = True
        if not _of_an_exchange(error):
            self._leave("failed", check.sentence(error))
            return
        self._leave("waited", "")
        raise LostRankError(self._sentence(self._left())) from error

    def _leave(self, how: str, text: str) -> None:
        note = {"how": how, "text": text, "step": self._step() if self._step else None}
        try:
            self._store.set(f"{self._place}/{rank()}", json.dumps(note))
        except RuntimeError:
            self._store = None  # the rank that holds it is gone

    def _left(self) -> dict[int, dict[str, Any]] | None:
        """Return what the ranks have left, by rank, once all have or `GRACE` is over; None if the store is gone."""
        until = time.monotonic() + GRACE
        found: dict[int, dict[str, Any]] = {}
        try:
            while self._store is not None:
                for each in set(range(world_size())) - set(found):
                    if self._store.check([f"{self._place}/{each}"]):
                        found[each] = json.loads(self._store.get(f"{self._place}/{each}"))
                if len(found) == world_size() or time.monotonic() > until:
                    return found
                time.sleep(0.05)
        except RuntimeError:
            pass
        return None

    def _sentence(self, left: dict[int, dict[str, Any]] | None) -> str:
        if left is None:
            return (
                f"Rank {rank()} waited in vain, and the store in which ranks leave why is gone: rank 0, or the "
                "torchrun that holds it, has ended first. See its log."
            )
        waited = [each for each in sorted(left) if left[each]["how"] == "waited"]
        who = f"{_named(waited)} waited for {'it' if len(left) < world_size() else 'them'}"
        failed = [each for each in sorted(left) if left[each]["how"] == "failed"]
        if failed:
            of = left[failed[0]]
            more = f" So did {_named(failed[1:]).lower()}." if failed[1:] else ""
            where = "" if of["step"] is None else f" at step {of['step']}"
            return f"Rank {failed[0]} failed{where}: {of['text'].rstrip('.')}.{more} {_named(waited)} waited for it."
        missing = [each for each in range(world_size()) if each not in left]
        if not missing:
            return f"{who}: no rank failed, so the ranks have made different calls, or the network is too slow."
        at = left[rank()]["step"]
        where = "" if at is None else f" in step {at}"
        limit = "" if self.timeout is None else f" within {self.timeout:g} s (`rank_timeout`)"
        return f"{_named(missing)} ended without a word or did not answer{limit}{where}: killed, or hanging. {who}."


def _named(ranks: list[int]) -> str:
    listed = [str(each) for each in ranks]
    if len(listed) == 1:
        return f"Rank {listed[0]}"
    return f"Ranks {', '.join(listed[:-1])} and {listed[-1]}"


def _of_an_exchange(error: BaseException) -> bool:
    """Whether an error is that of a collective: another rank is gone, or did not come in time."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in _MARKS)
