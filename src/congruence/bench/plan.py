"""A plan: which recipes, in which variants, with which seeds, and the cells that come of them."""

from __future__ import annotations

import functools
import hashlib
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from congruence.config.load import load_config
from congruence.config.schema import RunConfig
from congruence.config.shipped import shipped
from congruence.core import check

PLAIN = ""  # the variant of a plan that has none


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
    "tune": (lambda value: isinstance(value, dict), "a table"),
}
_TUNE_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "factors": (_list_of(int, float), "a list of numbers"),
    "seed": (lambda value: type(value) is int, "a whole number"),
    "set": (_list_of(str), _SETTINGS),
    "variants": (_table_of(_list_of(str)), f"for each variant {_SETTINGS}"),
}
_OPTIONAL = ("set", "variants", "tune")


@dataclass(frozen=True)
class Tune:
    """A search for the weight of each method, the same for all: one short run for each factor, judged on validation.

    Args:
        factors: times the recipe's weight of the terms whose key is the method's name; where there are none, of all
            terms that have a teacher.
        seed: of these runs, none of the plan's.
        overrides: `KEY=VALUE` for these runs alone (fewer epochs).
        variants: the same for single variants.
    """

    factors: tuple[float, ...]
    seed: int
    overrides: tuple[str, ...] = ()
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One run of a plan: a method, in a variant, with a seed."""

    method: str
    seed: int
    config: RunConfig
    variant: str = PLAIN
    factor: float = 1.0

    @property
    def row(self) -> str:
        """The cell's method and variant."""
        return f"{self.method}-{self.variant}" if self.variant else self.method

    @property
    def name(self) -> str:
        """The cell's folder."""
        return f"{self.row}-seed{self.seed}"

    @property
    def trial(self) -> str:
        """The cell's folder where it is a trial of a weight."""
        return f"{self.row}-x{self.factor:g}"

    @property
    def teacher(self) -> str | None:
        """The name of the earlier stage that teaches, None where there is none."""
        given = self.config.stages[self.config.last].teacher
        return given if isinstance(given, str) else None

    def teacher_key(self) -> str:
        """Return a hash of all that decides the teacher, by which cells share one."""
        return digest(self.config.upto(str(self.teacher)), apart=("name", "extends"))

    def key(self) -> str:
        """Return a hash of all that decides the cell's result."""
        return digest(self.config)


@dataclass(frozen=True)
class Plan:
    """Methods × variants × seeds.

    Args:
        name: of the plan.
        recipes: a recipe (name or path) for each method's row.
        seeds: of the students; the teacher has its own, in its recipe.
        overrides: `KEY=VALUE` for every recipe.
        variants: further overrides by the variant's name.
        tune: how the weights are found; None for those of the recipes.
    """

    name: str
    recipes: Mapping[str, str]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...] = ()
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {PLAIN: ()})
    tune: Tune | None = None

    def cells(self, factors: Mapping[str, float] | None = None) -> list[Cell]:
        """Return the cells, variant by variant and method by method, with the factor found for each `Cell.row`."""
        made = []
        for method, recipe, variant, overrides in self._rows():
            for seed in self.seeds:
                cell = _cell(method, recipe, variant, overrides, seed)
                made.append(_weighted(cell, recipe, overrides, (factors or {}).get(cell.row, 1.0)))
        return made

    def trials(self) -> list[Cell]:
        """Return the runs by which the weights are found; a method whose terms have no teacher needs none."""
        made = []
        tune = self.tune or Tune((), 0)
        for method, recipe, variant, overrides in self._rows():
            shorter = (*overrides, *tune.overrides, *tune.variants.get(variant, ()))
            cell = _cell(method, recipe, variant, shorter, tune.seed)
            if _taught(cell):
                made += [_weighted(cell, recipe, shorter, factor) for factor in tune.factors]
        return made

    def _rows(self) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
        for variant, more in self.variants.items():
            for method, recipe in self.recipes.items():
                yield method, recipe, variant, (*self.overrides, *more)


def _cell(method: str, recipe: str, variant: str, overrides: tuple[str, ...], seed: int) -> Cell:
    last = _last_stage(recipe, overrides)
    config = load_config(recipe, (*overrides, f"stages.{last}.train.seed={seed}"))
    return Cell(method, seed, config, variant)


@functools.cache
def _last_stage(recipe: str, overrides: tuple[str, ...]) -> str:
    return load_config(recipe, overrides).last


def _weighted(cell: Cell, recipe: str, overrides: tuple[str, ...], factor: float) -> Cell:
    """Return the cell with the weights of its method's terms multiplied."""
    if factor == 1.0:
        return cell
    stage = cell.config.last
    weights = [
        f"stages.{stage}.terms.{place}.weight={_times(weight, factor)}" for place, weight in _taught(cell).items()
    ]
    seeded = (*overrides, f"stages.{stage}.train.seed={cell.seed}", *weights)
    return Cell(cell.method, cell.seed, load_config(recipe, seeded), cell.variant, factor)


def _taught(cell: Cell) -> dict[int, Any]:
    """Return the weights by their place in the last stage: of the method's own terms, else of all with a teacher."""
    terms = {place: term for place, term in enumerate(cell.config.stages[cell.config.last].terms)}
    taught = {place: term for place, term in terms.items() if term.term().needs.teacher}
    own = {place: term for place, term in taught.items() if term.key == cell.method}
    return {place: term.weight for place, term in (own or taught).items()}


def _times(weight: Any, factor: float) -> str:
    if isinstance(weight, Mapping):
        return "{" + ", ".join(f"{part} = {value * factor!r}" for part, value in weight.items()) + "}"
    return repr(float(weight * factor))


def digest(config: RunConfig, apart: tuple[str, ...] = ()) -> str:
    """Return a short hash of what a configuration says beyond the defaults."""
    said = config.model_dump(mode="json", exclude=set(apart), exclude_defaults=True)
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


def load_plan(path_or_name: str, *, overrides: tuple[str, ...] = (), seeds: tuple[int, ...] | None = None) -> Plan:
    """Read a plan: a TOML file, or the name of a shipped one.

    Raises:
        ValueError: naming file, key, what was expected and what was found.
    """
    path = Path(path_or_name) if Path(path_or_name).is_file() else shipped("plans", path_or_name)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML: {error}.") from None
    problems = [f"{path}: {problem}" for problem in _problems(raw)]
    if problems:
        raise ValueError("\n".join(problems))
    variants = {name: tuple(value) for name, value in raw.get("variants", {PLAIN: ()}).items()}
    settings = (*raw.get("set", ()), *overrides)
    return Plan(raw["name"], raw["methods"], seeds or tuple(raw["seeds"]), settings, variants, _tune(raw.get("tune")))


def _tune(raw: Mapping[str, Any] | None) -> Tune | None:
    if raw is None:
        return None
    variants = {name: tuple(value) for name, value in raw.get("variants", {}).items()}
    return Tune(tuple(map(float, raw["factors"])), raw["seed"], tuple(raw.get("set", ())), variants)


def _problems(raw: Mapping[str, Any]) -> list[str]:
    """Return a line for each thing that is wrong with a plan."""
    problems = _wrong(raw, _KEYS, _OPTIONAL, "")
    tune, variants = raw.get("tune"), raw.get("variants", {})
    if isinstance(tune, dict):
        problems += _wrong(tune, _TUNE_KEYS, ("set", "variants"), "tune.")
        named = tune.get("variants", {})
        unknown = [name for name in named if name not in variants] if isinstance(named, dict) else []
        problems += [f"tune.variants.{name}: unknown variant.{check.near(name, variants)}" for name in unknown]
    return problems


def _wrong(
    raw: Mapping[str, Any],
    keys: Mapping[str, tuple[Callable[[Any], bool], str]],
    optional: tuple[str, ...],
    place: str,
) -> list[str]:
    problems = [f"{place}{key}: unknown key.{check.near(key, keys)}" for key in raw if key not in keys]
    for key, (accepts, expected) in keys.items():
        if key not in raw and key not in optional:
            problems.append(f"{place}{key}: missing.")
        elif key in raw and not accepts(raw[key]):
            got = f", got {raw[key]!r}" if raw[key] else ""
            problems.append(f"{place}{key}: expected {expected}{got}.")
    return problems
