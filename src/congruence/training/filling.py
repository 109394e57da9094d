"""A teacher's cache that a run fills while it trains; of a run without one, nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from congruence.distiller.distiller import Distiller
from congruence.teacher_cache.cache import Filling, TeacherCache


def filling(distiller: Distiller) -> Filling | None:
    """Return what fills the distiller's cache in this run, None where nothing does."""
    return distiller.cache.filling if isinstance(distiller.cache, TeacherCache) else None


def open_answers(distiller: Distiller) -> None:
    """Make a teacher's stored answers ready: those that are not there yet are stored as a run comes by them."""
    if isinstance(distiller.cache, TeacherCache):
        distiller.cache.fill(distiller.bindings.values())
    elif distiller.cache:
        distiller.cache.open(distiller.bindings.values())


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
    fills = filling(distiller)
    if fills:
        fills.close()


def storing(distiller: Distiller) -> contextlib.AbstractContextManager[None]:
    """Store what the teacher says meanwhile of the batches that the run's loader gave."""
    fills = filling(distiller)
    return fills.step() if fills else contextlib.nullcontext()


def share(distiller: Distiller) -> None:
    """Publish what was stored, and learn of other processes' rows."""
    fills = filling(distiller)
    if fills:
        fills.share()


def complete(distiller: Distiller, epochs: int) -> None:
    """Store what the epochs left out, as an incomplete last batch, once so many have shown every view."""
    cache = distiller.cache
    if isinstance(cache, TeacherCache) and epochs >= cache.views:
        cache.fill_rest()
