"""The teacher caches that a run fills while it trains (none if it has no cache)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from congruence.distiller.distiller import Distiller
from congruence.teacher_cache.cache import Filling, TeacherCache


def fillings(distiller: Distiller) -> list[Filling]:
    """Return the objects that fill the distiller's caches in this run."""
    caches = [cache for cache in distiller.caches.values() if isinstance(cache, TeacherCache)]
    return [cache.filling for cache in caches if cache.filling is not None]


def open_answers(distiller: Distiller) -> None:
    """Open the teachers' caches; missing entries are stored when the run reaches them."""
    for name, cache in distiller.caches.items():
        bindings = distiller.taught_by(name)
        if isinstance(cache, TeacherCache):
            cache.fill(bindings)
        else:
            cache.open(bindings)


@contextlib.contextmanager
def filled(distiller: Distiller) -> Iterator[None]:
    """Publish the stored entries at the end of a run."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(ValueError):  # the first error is the one to raise
            _close(distiller)
        raise
    _close(distiller)


def _close(distiller: Distiller) -> None:
    for each in fillings(distiller):
        each.close()


@contextlib.contextmanager
def storing(distiller: Distiller) -> Iterator[None]:
    """Store the teachers' outputs for batches of the run's loader while the block runs."""
    with contextlib.ExitStack() as stack:
        for each in fillings(distiller):
            stack.enter_context(each.step())
        yield


def share(distiller: Distiller) -> None:
    """Publish the stored rows, and read which rows other processes published."""
    for each in fillings(distiller):
        each.share()


def complete(distiller: Distiller, epochs: int) -> None:
    """Store the samples that epochs leave out (an incomplete last batch) once they have shown every view."""
    for cache in distiller.caches.values():
        if isinstance(cache, TeacherCache) and epochs >= cache.views:
            cache.fill_rest()
