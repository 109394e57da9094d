"""Floor 9: typed configurations: tables, reading, and what is wrong; found on first use, so that pydantic waits."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from congruence.config.load import from_values, load_config
    from congruence.config.problems import ConfigError
    from congruence.config.save import resolved_toml, write_resolved
    from congruence.config.schema import RunConfig

_HOMES = {
    "load": (
        "from_values",
        "load_config",
    ),
    "problems": ("ConfigError",),
    "save": (
        "resolved_toml",
        "write_resolved",
    ),
    "schema": ("RunConfig",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ConfigError",
    "RunConfig",
    "from_values",
    "load_config",
    "resolved_toml",
    "write_resolved",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"congruence.config.{_HOME[name]}"), name)
    raise AttributeError(f"module 'congruence.config' has no attribute '{name}'")
