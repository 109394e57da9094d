"""What the file of a plan may hold, and what is wrong with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from congruence.core import check


def _list_of(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(type(item) in kinds for item in value)


def _table_of(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and bool(value) and all(map(accepts, value.values()))


_SETTINGS = "a list of KEY=VALUE"
_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda value: isinstance(value, str), "a string"),
    "seeds": (_list_of(int), "a list of whole numbers"),
    "methods": (_table_of(lambda value: isinstance(value, str)), "at least one method"),
    "set": (_list_of(str), _SETTINGS),
    "variants": (_table_of(_list_of(str)), f"for each variant {_SETTINGS}"),
    "overrides": (_table_of(_list_of(str)), f"for each method {_SETTINGS}"),
    "tune": (lambda value: isinstance(value, dict), "a table"),
}
_TUNE_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "factors": (_list_of(int, float), "a list of numbers"),
    "seed": (lambda value: type(value) is int, "a whole number"),
    "set": (_list_of(str), _SETTINGS),
    "variants": (_table_of(_list_of(str)), f"for each variant {_SETTINGS}"),
}
_OPTIONAL = ("set", "variants", "overrides", "tune")


def problems(raw: Mapping[str, Any]) -> list[str]:
    """Return a line for each thing that is wrong with a plan."""
    found = _wrong(raw, _KEYS, _OPTIONAL, "")
    tune, variants, methods, overrides = (raw.get(key, {}) for key in ("tune", "variants", "methods", "overrides"))
    if all(isinstance(table, dict) for table in (variants, methods, overrides)):
        rows = [*methods, *(f"{method}-{variant}" for method in methods for variant in variants)]
        unknown = [name for name in overrides if name not in rows]
        found += [f"overrides.{name}: unknown method.{check.near(name, rows)}" for name in unknown]
    if "tune" in raw and isinstance(tune, dict):
        found += _wrong(tune, _TUNE_KEYS, ("set", "variants"), "tune.")
        named = tune.get("variants", {})
        unknown = [name for name in named if name not in variants] if isinstance(named, dict) else []
        found += [f"tune.variants.{name}: unknown variant.{check.near(name, variants)}" for name in unknown]
    return found


def _wrong(
    raw: Mapping[str, Any],
    keys: Mapping[str, tuple[Callable[[Any], bool], str]],
    optional: tuple[str, ...],
    place: str,
) -> list[str]:
    found = [f"{place}{key}: unknown key.{check.near(key, keys)}" for key in raw if key not in keys]
    for key, (accepts, expected) in keys.items():
        if key not in raw and key not in optional:
            found.append(f"{place}{key}: missing.")
        elif key in raw and not accepts(raw[key]):
            got = f", got {raw[key]!r}" if raw[key] else ""
            found.append(f"{place}{key}: expected {expected}{got}.")
    return found
