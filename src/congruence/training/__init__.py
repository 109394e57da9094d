"""Floor 8: the training loop, and runs that stop and resume exactly."""

from congruence.training.distributed import average_gradients
from congruence.training.loop import fit
from congruence.training.lost_ranks import LostRankError
from congruence.training.options import Event, FitOptions, OptimizerOptions, ScheduleOptions
from congruence.training.record import NonFiniteLossError
from congruence.training.result import FitResult

__all__ = [
    "Event",
    "FitOptions",
    "FitResult",
    "LostRankError",
    "NonFiniteLossError",
    "OptimizerOptions",
    "ScheduleOptions",
    "average_gradients",
    "fit",
]
