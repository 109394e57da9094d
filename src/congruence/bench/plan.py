"""A plan: which recipes, in which variants, with which seeds, and the cells that come of them."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from congruence.config.load import load_config
from congruence.config.schema import RunConfig

PLAIN = ""  # the variant of a plan that has none


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
        own: still further overrides of single rows, by the method's name or by `Cell.row`.
        last: overrides that win over all others: the command line's.
    """

    name: str
    recipes: Mapping[str, str]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...] = ()
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {PLAIN: ()})
    tune: Tune | None = None
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    last: tuple[str, ...] = ()

    def cells(self, factors: Mapping[str, float] | None = None) -> list[Cell]:
        """Return the cells, variant by variant and method by method, with the factor found for each `Cell.row`."""
        made = []
        for method, recipe, variant, row in self._rows():
            overrides = (*row, *self.last)
            for seed in self.seeds:
                cell = _cell(method, recipe, variant, overrides, seed)
                made.append(_weighted(cell, recipe, overrides, (factors or {}).get(cell.row, 1.0)))
        return made

    def trials(self) -> list[Cell]:
        """Return the runs by which the weights are found; a method whose terms have no teacher needs none."""
        made = []
        tune = self.tune or Tune((), 0)
        for method, recipe, variant, row in self._rows():
            shorter = (*row, *tune.overrides, *tune.variants.get(variant, ()), *self.last)
            cell = _cell(method, recipe, variant, shorter, tune.seed)
            if _taught(cell):
                made += [_weighted(cell, recipe, shorter, factor) for factor in tune.factors]
        return made

    def _rows(self) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
        for variant, more in self.variants.items():
            for method, recipe in self.recipes.items():
                own = (*self.own.get(method, ()), *self.own.get(f"{method}-{variant}", ()))
                yield method, recipe, variant, (*self.overrides, *more, *own)


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
