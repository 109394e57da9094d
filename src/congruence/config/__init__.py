"""Floor 9: typed configurations: tables, reading, and what is wrong; found on first use, so that pydantic waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from congruence.core.front_door import on_first_use

if TYPE_CHECKING:
    from congruence.config.load import from_values, load_config
    from congruence.config.problems import ConfigError
    from congruence.config.save import resolved_toml, write_resolved
    from congruence.config.schema import RunConfig

__all__ = [
    "ConfigError",
    "RunConfig",
    "from_values",
    "load_config",
    "resolved_toml",
    "write_resolved",
]

__getattr__ = on_first_use(
    __name__,
    {
        "congruence.config.load": (
            "from_values",
            "load_config",
        ),
        "congruence.config.problems": ("ConfigError",),
        "congruence.config.save": (
            "resolved_toml",
            "write_resolved",
        ),
        "congruence.config.schema": ("RunConfig",),
    },
)
