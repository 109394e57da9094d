"""Floor 5: the distiller, the training loop, and runs that stop and go on exactly."""

from congruence.engine.distiller import Distiller, Output
from congruence.engine.loop import fit
from congruence.engine.options import Event, FitOptions, FitResult, OptimizerOptions, ScheduleOptions
from congruence.engine.record import NonFiniteLossError
from congruence.engine.signals import Captured

__all__ = [
    "Captured",
    "Distiller",
    "Event",
    "FitOptions",
    "FitResult",
    "NonFiniteLossError",
    "OptimizerOptions",
    "Output",
    "ScheduleOptions",
    "fit",
]
