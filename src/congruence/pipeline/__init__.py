"""Floor 10: runs a configuration: its stages, their models and loaders; imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from congruence.core.front_door import on_first_use

if TYPE_CHECKING:
    from congruence.pipeline.build import Built, Models, build_models, build_stage
    from congruence.pipeline.context import RunContext, load_splits
    from congruence.pipeline.stages import StageRun, run, run_stage
    from congruence.pipeline.student import load_student

__all__ = [
    "Built",
    "Models",
    "RunContext",
    "StageRun",
    "build_models",
    "build_stage",
    "load_splits",
    "load_student",
    "run",
    "run_stage",
]

__getattr__ = on_first_use(
    __name__,
    {
        "congruence.pipeline.build": (
            "Built",
            "Models",
            "build_models",
            "build_stage",
        ),
        "congruence.pipeline.context": (
            "RunContext",
            "load_splits",
        ),
        "congruence.pipeline.stages": (
            "StageRun",
            "run",
            "run_stage",
        ),
        "congruence.pipeline.student": ("load_student",),
    },
)
