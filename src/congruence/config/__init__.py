"""Floor 6: typed configurations, from TOML to a run; found on first use, so that pydantic stays out of the way."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from congruence.config.build import Built, Models, build_models, build_stage, load_splits
    from congruence.config.load import from_values, load_config
    from congruence.config.problems import ConfigError
    from congruence.config.save import resolved_toml, write_resolved
    from congruence.config.schema import RunConfig
    from congruence.config.stages import StageRun, run, run_stage
    from congruence.config.student import load_student

_HOMES = {
    "build": ("Built", "Models", "build_models", "build_stage", "load_splits"),
    "load": ("from_values", "load_config"),
    "problems": ("ConfigError",),
    "save": ("resolved_toml", "write_resolved"),
    "schema": ("RunConfig",),
    "stages": ("StageRun", "run", "run_stage"),
    "student": ("load_student",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Built",
    "ConfigError",
    "Models",
    "RunConfig",
    "StageRun",
    "build_models",
    "build_stage",
    "from_values",
    "load_config",
    "load_splits",
    "load_student",
    "resolved_toml",
    "run",
    "run_stage",
    "write_resolved",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"congruence.config.{_HOME[name]}"), name)
    raise AttributeError(f"module 'congruence.config' has no attribute '{name}'")
