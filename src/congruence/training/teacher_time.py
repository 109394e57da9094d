"""How much of a run its teachers take, and what keeping their answers would save."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import torch

from congruence.core import ranks
from congruence.data.loading.batches import Loader
from congruence.distiller.distiller import Distiller

LOG = logging.getLogger("congruence")
VIEWS = 8  # that are proposed at least, where the loader does not show fewer
SHOWN = 4  # times that a run then shows each: with twelve a student learns them by heart (`benchmarks/course.py`)
WORTH = 60.0  # seconds that must be saved, for a word about it


class TeacherTime:
    """Times the teachers of a run in its first whole epoch, and says so where it would be much shorter without them.

    On a processor alone: elsewhere the time of a call is not that of the work, and to wait for it would cost more.
    Teachers whose answers are stored are not timed.

    Args:
        distiller: whose teachers.
        loader: the training batches; only of this library's own can answers be stored.
        device: the run's.
    """

    def __init__(self, distiller: Distiller, loader: Any, device: torch.device) -> None:
        self._teachers = [each for name, each in distiller.teachers.items() if name not in distiller.caches]
        self._most = 0.0  # views that can be told apart; 0 where nothing is to be said
        if self._teachers and isinstance(loader, Loader) and device.type == "cpu" and not ranks.rank():
            self._most = (loader.view_cycle or math.inf) if loader.varies() else 1
        self._began: tuple[float, float] | None = None

    def begin(self) -> None:
        """Begin with an epoch, from its first batch on."""
        if self._most:
            self._began = time.perf_counter(), self._taken()

    def end(self, left: int) -> None:
        """End with the epoch's last step, `left` epochs before the run's end; the first time a word may be said."""
        if self._began is None:
            return
        whole, taken = time.perf_counter() - self._began[0], self._taken() - self._began[1]
        views = int(min(max(VIEWS, math.ceil((left + 1) / SHOWN)), self._most))
        self._began, self._most = None, 0
        shorter = left * whole - taken * max(0, left - (views - 1))
        if left * whole - shorter > WORTH and shorter < left * whole / 2:
            LOG.warning(
                "The teacher took %.0f %% of the first epoch. With its answers kept for %s (--teacher-views %d of the "
                "command, teacher_views=%d of `distill`, or a `TeacherCache`) the other epochs would take about %s, "
                "not %s.",
                100 * taken / whole,
                "each sample" if views == 1 else f"{views} views of each sample",
                views,
                views,
                _in_words(shorter),
                _in_words(left * whole),
            )

    def _taken(self) -> float:
        return sum(teacher.seconds for teacher in self._teachers)


def _in_words(seconds: float) -> str:
    """Say how long that is.

    Example:
        >>> _in_words(40), _in_words(600), _in_words(9000)
        ('40 seconds', '10 minutes', '2.5 hours')
    """
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
