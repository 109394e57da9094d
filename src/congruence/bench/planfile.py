"""`load_plan`: a plan's TOML file read and checked, with every error named at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from congruence.bench.halving import Halving
from congruence.bench.naming import PLAIN, misnamed
from congruence.bench.plan import Plan, Tune
from congruence.bench.published import AVERAGE, Published
from congruence.bench.published import problems as published_problems
from congruence.config.load import NotTomlError, check_sizes, parsed, unread
from congruence.config.problems import ConfigError
from congruence.config.shipped import shipped
from congruence.config.sizes import LARGEST
from congruence.core import check
from congruence.core.brevity import brief


def _list_of(*kinds: type, empty: bool = False) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list) and (empty or bool(value)) and all(type(item) in kinds for item in value)
    )


def _table_of(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and bool(value) and all(map(accepts, value.values()))


def _seeds(value: Any) -> bool:
    return _list_of(int)(value) and min(value) >= 0


def _range(value: Any) -> bool:
    return _list_of(int, float)(value) and len(value) == 2 and 0 < value[0] < value[1] < float("inf")


def _count(least: int, most: int = LARGEST) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


_MOST = 10_000  # candidates, each of which is trained
_SETTINGS = "a list of KEY=VALUE"
_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda value: isinstance(value, str), "a string"),
    "seeds": (_seeds, "a list of whole numbers"),
    "seeds_of": (_table_of(_seeds), "for each variant a list of whole numbers"),
    "methods": (_table_of(lambda value: isinstance(value, str)), "at least one method"),
    "set": (_list_of(str), _SETTINGS),
    "overrides": (_table_of(_list_of(str)), f"for each method {_SETTINGS}"),
    "variants": (_table_of(_list_of(str, empty=True)), f"for each variant {_SETTINGS}"),
    "tune": (lambda value: isinstance(value, dict), "a table"),
    "resources": (lambda value: isinstance(value, dict), "a table"),
    "published": (lambda value: isinstance(value, dict), "a table"),
    "average": (lambda value: value is True or value is False, "true or false"),
    "weight": (lambda value: value in ("balanced", "published"), "'balanced' or 'published'"),
    "teacher": (lambda value: isinstance(value, str) and bool(value), "the name of a kept teacher"),
    "baseline": (lambda value: isinstance(value, str), "the name of a method, or of a variant"),
    "teachers": (_table_of(lambda value: isinstance(value, str)), "for each method the name of a kept teacher, or ''"),
}
_TUNE_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "factors": (_list_of(int, float), "a list of numbers"),
    "seed": (_count(0), "a whole number"),
    "set": (_list_of(str), _SETTINGS),
    "variants": (_table_of(_list_of(str)), f"for each variant {_SETTINGS}"),
}
_RESOURCES: dict[str, tuple[Callable[[Any], bool], str]] = {
    key: (lambda value: type(value) in (int, float) and 0 <= value < float("inf"), "a number >= 0")
    for key in ("cpus", "gpus", "memory")
}
_HALVING_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "candidates": (_count(2, _MOST), f"a whole number from 2 to {_MOST:,}"),
    "rungs": (_count(1), "a whole number > 0"),
    "eta": (_count(2), "a whole number > 1"),
    "ranges": (_table_of(_range), "for each key two rising numbers > 0"),
    **{key: _TUNE_KEYS[key] for key in ("seed", "set", "variants")},
}
_OPTIONAL = (
    "set",
    "overrides",
    "variants",
    "tune",
    "seeds_of",
    "teacher",
    "teachers",
    "weight",
    "baseline",
    "resources",
    "published",
    "average",
)


def load_plan(path_or_name: str, *, overrides: tuple[str, ...] = (), seeds: tuple[int, ...] | None = None) -> Plan:
    """Read a plan: a TOML file, or the name of a shipped one.

    Raises:
        ConfigError: with a line for each thing that is wrong: file, key, what was expected and what is there.
        ValueError: if there is no such plan, or it cannot be read.
    """
    path = Path(path_or_name) if os.path.isfile(path_or_name) else shipped("plans", path_or_name)
    try:
        raw = parsed(path.read_text(encoding="utf8"))
    except NotTomlError as error:
        raise ValueError(f"{path}: not TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: {unread(error)}"]) from None
    check_sizes(raw, str(path), {})
    if seeds:
        raw = {**{key: value for key, value in raw.items() if key != "seeds_of"}, "seeds": list(seeds)}
    problems = [f"{path}: {problem}" for problem in _problems(raw)]
    if problems:
        raise ConfigError(problems)
    variants = {name: tuple(value) for name, value in raw.get("variants", {PLAIN: ()}).items()}
    settings = tuple(raw.get("set", ()))
    own = {name: tuple(value) for name, value in raw.get("overrides", {}).items()}
    return Plan(
        raw["name"],
        raw["methods"],
        tuple(raw["seeds"]),
        settings,
        variants,
        _tune(raw.get("tune")),
        own,
        overrides,
        seeds_of={name: tuple(value) for name, value in raw.get("seeds_of", {}).items()},
        teacher=raw.get("teacher"),
        teachers=raw.get("teachers", {}),
        results=_results_beside(path),
        weight=raw.get("weight"),
        baseline=raw.get("baseline"),
        resources=raw.get("resources", {}),
        published=Published.of(raw["published"]) if "published" in raw else None,
        average=raw.get("average", False),
    )


def _results_beside(path: Path) -> Path | None:
    """Return the folder `results` beside a plan's file, or beside the folder `plans` around it; None without."""
    folder = path.resolve().parent
    if folder.parent.name == "plans":  # plans/paper
        folder = folder.parent
    results = (folder.parent if folder.name == "plans" else folder) / "results"
    return results if results.is_dir() else None


def _tune(raw: Mapping[str, Any] | None) -> Tune | Halving | None:
    if raw is None:
        return None
    variants = {name: tuple(value) for name, value in raw.get("variants", {}).items()}
    if "candidates" in raw:
        ranges = {key: (float(low), float(high)) for key, (low, high) in raw["ranges"].items()}
        counts = (raw["candidates"], raw["rungs"], raw["eta"])
        return Halving(*counts, raw["seed"], ranges, tuple(raw.get("set", ())), variants)
    return Tune(tuple(map(float, raw["factors"])), raw["seed"], tuple(raw.get("set", ())), variants)


def _problems(raw: Mapping[str, Any]) -> list[str]:
    """Return a line for each thing that is wrong with a plan."""
    problems = _wrong(raw, _KEYS, _OPTIONAL, "")
    seeds, tune, variants = raw.get("seeds"), raw.get("tune"), raw.get("variants", {})
    if isinstance(seeds, list) and _seeds(seeds) and len(set(seeds)) < len(seeds):
        problems.append(f"seeds: expected different whole numbers, got {brief(seeds)}.")
    if seeds and isinstance(raw.get("seeds_of"), dict):
        unknown = [name for name in raw["seeds_of"] if name not in variants]
        problems += [f"seeds_of.{name}: unknown variant.{check.near(name, variants)}" for name in unknown]
        for name, own_seeds in raw["seeds_of"].items():
            if _seeds(own_seeds) and len(set(own_seeds)) < len(own_seeds):
                problems.append(f"seeds_of.{name}: expected different whole numbers, got {brief(own_seeds)}.")
    if isinstance(tune, dict):
        halving = any(key in tune for key in ("candidates", "rungs", "eta", "ranges"))
        problems += _wrong(tune, _HALVING_KEYS if halving else _TUNE_KEYS, ("set", "variants"), "tune.")
        if halving and not any(problem.startswith("tune.") for problem in problems):
            problems += _undecided(tune)
        named = tune.get("variants", {})
        unknown = [name for name in named if name not in variants] if isinstance(named, dict) else []
        problems += [f"tune.variants.{name}: unknown variant.{check.near(name, variants)}" for name in unknown]
    if isinstance(raw.get("resources"), dict):
        problems += _wrong(raw["resources"], _RESOURCES, tuple(_RESOURCES), "resources.")
    methods = raw.get("methods")
    if isinstance(raw.get("name"), str) and isinstance(methods, dict) and isinstance(variants, dict):
        problems += misnamed(raw["name"], methods, variants or [PLAIN])
    rows = []
    if isinstance(methods, dict) and isinstance(variants, dict):
        rows = [*methods, *(f"{method}-{variant}" for method in methods for variant in variants)]
    if raw.get("average") is True and isinstance(variants, dict) and (AVERAGE in variants or len(variants) < 2):
        problems.append(f"average: expected two variants or more, none of them '{AVERAGE}', got {brief([*variants])}.")
    averages = [f"{method}-{AVERAGE}" for method in methods or ()] if rows and raw.get("average") is True else []
    if rows and isinstance(raw.get("published"), dict):
        problems += published_problems(raw["published"], [*rows, *averages])
    for key in ("overrides", "teachers"):
        own = raw.get(key)
        if rows and isinstance(own, dict):
            unknown = [name for name in own if name not in rows]
            problems += [f"{key}.{name}: unknown method.{check.near(name, rows)}" for name in unknown]
    baseline = raw.get("baseline")
    if isinstance(baseline, str) and isinstance(methods, dict) and isinstance(variants, dict):
        named = [*methods, *variants]
        if baseline not in named:
            problems.append(f"baseline: unknown method or variant.{check.near(baseline, named)}")
    return problems


def _undecided(tune: Mapping[str, Any]) -> list[str]:
    """Say where the last rung, the full course, would have nothing left to decide."""
    most, last = 1, 1
    while most < tune["candidates"] and last < tune["rungs"]:
        most, last = most * tune["eta"], last + 1
    if tune["candidates"] > most:
        return []
    power = most if last == tune["rungs"] else f"at least {most}"
    got = f"eta^(rungs - 1) = {power}, so that two are left for the full course, got {tune['candidates']}."
    return [f"tune.candidates: expected more than {got}"]


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
            got = f", got {brief(raw[key])}" if raw[key] else ""
            problems.append(f"{prefix}{key}: expected {expected}{got}.")
    return problems
