"""`resolved_toml` and `write_resolved`: a configuration with its defaults, as TOML that loads to an equal one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from congruence.core.files import atomic

if TYPE_CHECKING:
    from congruence.config.schema import RunConfig

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def resolved_toml(config: RunConfig) -> str:
    """Return a configuration with all defaults as TOML; what is None is left out.

    Example:
        >>> from congruence.config.load import load_config
        >>> resolved_toml(load_config("digits/pkt")).splitlines()[:3]
        ['name = "digits/pkt"', '', '[data]']
    """
    return _table(config.model_dump(exclude_none=True, exclude={"extends"}), "").lstrip("\n")


def write_resolved(config: RunConfig, path: Path) -> None:
    """Write `resolved_toml`, whole or not at all."""
    with atomic(path) as file:
        file.write(resolved_toml(config).encode())


def _table(values: Mapping[str, Any], name: str) -> str:
    """Write plain values first, then tables, as the format demands."""
    lines, tables = [], []
    for key, value in values.items():
        inner = f"{name}.{_key(key)}" if name else _key(key)
        if isinstance(value, Mapping) and value:
            tables.append(_headed(f"[{inner}]", value, inner))
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            tables += [_headed(f"[[{inner}]]", item, inner) for item in value]
        else:
            lines.append(f"{_key(key)} = {_value(value)}\n")
    return "".join(lines + tables)


def _headed(header: str, values: Mapping[str, Any], name: str) -> str:
    """Write a table under its header, which one that holds nothing but tables does without."""
    body = _table(values, name)
    needless = not header.startswith("[[") and body.startswith("\n")
    return body if needless else f"\n{header}\n{body}"


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + "}"
    return repr(value)
