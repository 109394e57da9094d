"""Floor 5: the distiller, the training loop, and runs that stop and go on exactly."""

from congruence.engine.captured import Captured, Output
from congruence.engine.distiller import Distiller
from congruence.engine.loop import fit
from congruence.engine.options import Event, FitOptions, OptimizerOptions, ScheduleOptions
from congruence.engine.record import NonFiniteLossError
from congruence.engine.result import FitResult
from congruence.engine.teacher_cache import TeacherCache

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
    "TeacherCache",
    "fit",
]
