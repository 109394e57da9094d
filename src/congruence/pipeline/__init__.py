"""Floor 10: what a configuration runs: its stages, their models and loaders; found on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from congruence.pipeline.build import Built, Models, build_models, build_stage
    from congruence.pipeline.context import RunContext, load_splits
    from congruence.pipeline.stages import StageRun, run, run_stage
    from congruence.pipeline.student import load_student

_HOMES = {
    "build": ("Built", "Models", "build_models", "build_stage"),
    "context": ("RunContext", "load_splits"),
    "stages": ("StageRun", "run", "run_stage"),
    "student": ("load_student",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

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


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"congruence.pipeline.{_HOME[name]}"), name)
    raise AttributeError(f"module 'congruence.pipeline' has no attribute '{name}'")
