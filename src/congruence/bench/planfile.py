"""`load_plan`: a plan's TOML file read and checked, with every error named at once."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from congruence.bench.plan import PLAIN, Plan, Tune
from congruence.config.shipped import shipped
from congruence.core import check


def _list_of(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(type(item) in kinds for item in value)


def _table_of(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and bool(value) and all(map(accepts, value.values()))


_SETTINGS = "a list of KEY=VALUE"
_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda value: isinstance(value, str), "a string"),
    "seeds": (lambda value: _list_of(int)(value) and min(value) >= 0, "a list of whole numbers"),
    "methods": (_table_of(lambda value: isinstance(value, str)), "at least one method"),
    "set": (_list_of(str), _SETTINGS),
    "overrides": (_table_of(_list_of(str)), f"for each method {_SETTINGS}"),
    "variants": (_table_of(_list_of(str)), f"for each variant {_SETTINGS}"),
    "tune": (lambda value: isinstance(value, dict), "a table"),
}
_TUNE_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "factors": (_list_of(int, float), "a list of numbers"),
    "seed": (lambda value: type(value) is int and value >= 0, "a whole number"),
    "set": (_list_of(str), _SETTINGS),
    "variants": (_table_of(_list_of(str)), f"for each variant {_SETTINGS}"),
}
_OPTIONAL = ("set", "overrides", "variants", "tune")


def load_plan(path_or_name: str, *, overrides: tuple[str, ...] = (), seeds: tuple[int, ...] | None = None) -> Plan:
    """Read a plan: a TOML file, or the name of a shipped one.

    Raises:
        ValueError: naming file, key, what was expected and what is there.
    """
    path = Path(path_or_name) if Path(path_or_name).is_file() else shipped("plans", path_or_name)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML: {error}.") from None
    if seeds:
        raw["seeds"] = list(seeds)
    problems = [f"{path}: {problem}" for problem in _problems(raw)]
    if problems:
        raise ValueError("\n".join(problems))
    variants = {name: tuple(value) for name, value in raw.get("variants", {PLAIN: ()}).items()}
    settings = tuple(raw.get("set", ()))
    own = {name: tuple(value) for name, value in raw.get("overrides", {}).items()}
    seeds = tuple(raw["seeds"])
    return Plan(raw["name"], raw["methods"], seeds, settings, variants, _tune(raw.get("tune")), own, overrides)


def _tune(raw: Mapping[str, Any] | None) -> Tune | None:
    if raw is None:
        return None
    variants = {name: tuple(value) for name, value in raw.get("variants", {}).items()}
    return Tune(tuple(map(float, raw["factors"])), raw["seed"], tuple(raw.get("set", ())), variants)


def _problems(raw: Mapping[str, Any]) -> list[str]:
    """Return a line for each thing that is wrong with a plan."""
    problems = _wrong(raw, _KEYS, _OPTIONAL, "")
    seeds, tune, variants = raw.get("seeds"), raw.get("tune"), raw.get("variants", {})
    if isinstance(seeds, list) and any(seed in seeds[:position] for position, seed in enumerate(seeds)):
        problems.append(f"seeds: expected different whole numbers, got {seeds}.")
    if isinstance(tune, dict):
        problems += _wrong(tune, _TUNE_KEYS, ("set", "variants"), "tune.")
        named = tune.get("variants", {})
        unknown = [name for name in named if name not in variants] if isinstance(named, dict) else []
        problems += [f"tune.variants.{name}: unknown variant.{check.near(name, variants)}" for name in unknown]
    methods, own = raw.get("methods"), raw.get("overrides")
    if isinstance(methods, dict) and isinstance(own, dict) and isinstance(variants, dict):
        rows = [*methods, *(f"{method}-{variant}" for method in methods for variant in variants)]
        unknown = [name for name in own if name not in rows]
        problems += [f"overrides.{name}: unknown method.{check.near(name, rows)}" for name in unknown]
    return problems


def _wrong(
    raw: Mapping[str, Any],
    keys: Mapping[str, tuple[Callable[[Any], bool], str]],
    optional: tuple[str, ...],
    prefix: str,
) -> list[str]:
    problems = [f"{prefix}{key}: unknown key.{check.near(key, keys)}" for key in raw if key not in keys]
    for key, (accepts, expected) in keys.items():
        if key not in raw and key not in optional:
            problems.append(f"{prefix}{key}: missing.")
        elif key in raw and not accepts(raw[key]):
            got = f", got {raw[key]!r}" if raw[key] else ""
            problems.append(f"{prefix}{key}: expected {expected}{got}.")
    return problems
