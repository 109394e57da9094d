"""congruence: make a small model see the world the way a big one does.

Everything here is found on first use, so that `import congruence` costs what `import torch` costs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from congruence.core.front_door import on_first_use

__version__ = "0.2.0"

if TYPE_CHECKING:
    from congruence import data, evaluation, geometry, losses, metrics, models
    from congruence.core.inputs import Inputs
    from congruence.distiller import Captured, Distiller, Output
    from congruence.evaluation.compare import compare
    from congruence.evaluation.comparison import Comparison, Comparisons
    from congruence.methods import Clock, Method, Needs, Probe, Signals, Term
    from congruence.pipeline.export import Exported, export
    from congruence.pipeline.one_call import Distilled, distill
    from congruence.pipeline.student import load_student
    from congruence.teacher_cache import TeacherCache
    from congruence.training import (
        Event,
        FitOptions,
        FitResult,
        LostRankError,
        NonFiniteLossError,
        OptimizerOptions,
        ScheduleOptions,
        average_gradients,
        fit,
    )

_PACKAGES = ("data", "evaluation", "geometry", "losses", "metrics", "models", "testing")
_HOMES = {
    "congruence.core.inputs": ("Inputs",),
    "congruence.distiller": ("Captured", "Distiller", "Output"),
    "congruence.evaluation": ("Comparison", "Comparisons", "compare"),
    "congruence.methods": ("Clock", "Method", "Needs", "Probe", "Signals", "Term"),
    "congruence.pipeline.export": ("Exported", "export"),
    "congruence.pipeline.one_call": ("Distilled", "distill"),
    "congruence.pipeline.student": ("load_student",),
    "congruence.teacher_cache": ("TeacherCache",),
    "congruence.training": (
        "Event",
        "FitOptions",
        "FitResult",
        "LostRankError",
        "NonFiniteLossError",
        "OptimizerOptions",
        "ScheduleOptions",
        "average_gradients",
        "fit",
    ),
}
_find = on_first_use(__name__, _HOMES)

__all__ = [
    "Captured",
    "Clock",
    "Comparison",
    "Comparisons",
    "Distilled",
    "Distiller",
    "Event",
    "Exported",
    "FitOptions",
    "FitResult",
    "Inputs",
    "LostRankError",
    "Method",
    "Needs",
    "NonFiniteLossError",
    "OptimizerOptions",
    "Output",
    "Probe",
    "ScheduleOptions",
    "Signals",
    "TeacherCache",
    "Term",
    "__version__",
    "average_gradients",
    "compare",
    "data",
    "distill",
    "evaluation",
    "export",
    "fit",
    "geometry",
    "load_student",
    "losses",
    "metrics",
    "models",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"congruence.{name}")
    value = globals()[name] = _find(name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PACKAGES, *(name for names in _HOMES.values() for name in names)})
