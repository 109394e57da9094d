"""The teachers' caches that a run fills while it trains; of a run without one, nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from congruence.distiller.distiller import Distiller
from congruence.teacher_cache.cache import Filling, TeacherCache


def fillings(distiller: Distiller) -> list[Filling]:
    """Return what fills the distiller's caches in this run."""
    caches = [cache for cache in distiller.caches.values() if isinstance(cache, TeacherCache)]
    return [cache.filling for cache in caches if cache.filling is not None]


def open_answers(distiller: Distiller) -> None:
    """Make the teachers' stored answers ready: those that are not there yet are stored as a run comes by them."""
    for name, cache in distiller.caches.items():
        bindings = distiller.taught_by(name)
        if isinstance(cache, TeacherCache):
            cache.fill(bindings)
        else:
            cache.open(bindings)


@contextlib.contextmanager
def filled(distiller: Distiller) -> Iterator[None]:
    """Publish, at the end of a run, what it stored."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(ValueError):  # the first error is the one to tell
            _close(distiller)
        raise
    _close(distiller)


def _close(distiller: Distiller) -> None:
    for each in fillings(distiller):
        each.close()


@contextlib.contextmanager
def storing(distiller: Distiller) -> Iterator[None]:
    """Store what the teachers say meanwhile of the batches that the run's loader gave."""
    with contextlib.ExitStack() as stack:
        for each in fillings(distiller):
            stack.enter_context(each.step())
        yield


def share(distiller: Distiller) -> None:
    """Publish what was stored, and learn of other processes' rows."""
    for each in fillings(distiller):
        each.share()


def complete(distiller: Distiller, epochs: int) -> None:
    """Store what the epochs left out, as an incomplete last batch, once so many have shown every view."""
    for cache in distiller.caches.values():
        if isinstance(cache, TeacherCache) and epochs >= cache.views:
            cache.fill_rest()
