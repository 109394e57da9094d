"""Puts a distiller into the state of a run's first step, to try something in advance."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from congruence.distiller.as_found import as_found
from congruence.distiller.distiller import Distiller
from congruence.methods.method import Clock
from congruence.models.evaluating import modes_of, set_modes
from congruence.training.modes import start_training


@contextlib.contextmanager
def as_in_training(distiller: Distiller) -> Iterator[None]:
    """Put a distiller into the state of a run's first step for a block, and restore it afterwards."""
    modes = modes_of(distiller)
    before = distiller.clock, distiller._epochs_begun
    try:
        with as_found(distiller), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the real step will raise this
            start_training(distiller)
            distiller.resume_epoch(Clock())
            yield
    finally:
        distiller.clock, distiller._epochs_begun = before
        set_modes(modes)
