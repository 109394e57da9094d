"""`Plan`, methods × variants × seeds with a search for weights (`Tune`), and the runs it consists of (`Cell`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from congruence.config.load import load_config
from congruence.config.references import StudentRef
from congruence.config.schema import RunConfig
from congruence.core import check
from congruence.training.saving.identity import TEACHER_APART

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
    def teacher(self) -> StudentRef | None:
        """The earlier stage's student that teaches, None where there is none."""
        return self.config.stages[self.config.last].teacher_ref()

    def tuned(self) -> frozenset[int]:
        """Return the positions of the terms whose weight is searched: the method's own, else all with a teacher."""
        taught = {
            position: term
            for position, term in enumerate(self.config.stages[self.config.last].terms)
            if term.term().needs.teacher
        }
        own = frozenset(position for position, term in taught.items() if term.key == self.method)
        return own or frozenset(taught)

    def weighted(self, factor: float) -> Cell:
        """Return the cell with the weights of its `tuned` terms multiplied."""
        if factor == 1.0:
            return self
        tuned = self.tuned()
        terms = [
            term.model_copy(update={"weight": _times(term.weight, factor)}) if position in tuned else term
            for position, term in enumerate(self.config.stages[self.config.last].terms)
        ]
        return replace(self, config=_changed(self.config, terms=terms), factor=factor)

    def teacher_key(self) -> str:
        """Return a hash of all that decides the teacher, by which cells share one."""
        if self.teacher is None:
            raise ValueError(f"The row '{self.row}' has no earlier stage that teaches it.")
        key = digest(self.config.upto(self.teacher.stage), apart=TEACHER_APART)
        return key if self.teacher.student == "student" else f"{key}-{self.teacher.student}"

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
        tune: how the weights are chosen; None for those of the recipes.
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

    def only(self, *variants: str) -> Plan:
        """Return the plan with some of its variants.

        Raises:
            ValueError: for one that it does not have.
        """
        for name in variants:
            if name not in self.variants:
                named = ", ".join(filter(None, self.variants)) or "none"
                near = check.near(name, self.variants)
                raise ValueError(f"The plan '{self.name}' has no variant '{name}' (it has: {named}).{near}")
        return replace(self, variants={name: self.variants[name] for name in self.variants if name in variants})

    def cells(self) -> list[Cell]:
        """Return the cells, variant by variant and method by method, with the recipes' weights."""
        cells = []
        for method, recipe, variant, settings in self._rows():
            config = load_config(recipe, (*settings, *self.last))
            cells += [Cell(method, seed, _seeded(config, seed), variant) for seed in self.seeds]
        return cells

    def trials(self) -> list[Cell]:
        """Return the runs by which the weights are chosen; a method whose terms have no teacher needs none."""
        trials = []
        tune = self.tune or Tune((), 0)
        for method, recipe, variant, settings in self._rows():
            shorter = (*settings, *tune.overrides, *tune.variants.get(variant, ()), *self.last)
            cell = Cell(method, tune.seed, _seeded(load_config(recipe, shorter), tune.seed), variant)
            if cell.tuned():
                trials += [cell.weighted(factor) for factor in tune.factors]
        return trials

    def _rows(self) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
        """Yield (method, recipe, variant, settings KEY=VALUE) for each row of the plan's table."""
        for variant, more in self.variants.items():
            for method, recipe in self.recipes.items():
                own = (*self.own.get(method, ()), *self.own.get(f"{method}-{variant}", ()))
                yield method, recipe, variant, (*self.overrides, *more, *own)


def _changed(config: RunConfig, **values: Any) -> RunConfig:
    """Return the configuration with some values of its last stage exchanged."""
    stage = config.stages[config.last].model_copy(update=values)
    return config.model_copy(update={"stages": {**config.stages, config.last: stage}})


def _seeded(config: RunConfig, seed: int) -> RunConfig:
    return _changed(config, train=config.stages[config.last].train.model_copy(update={"seed": seed}))


def _times(weight: Any, factor: float) -> Any:
    if isinstance(weight, Mapping):
        return {part: value * factor for part, value in weight.items()}
    return weight * factor


def digest(config: RunConfig, apart: tuple[str, ...] = ()) -> str:
    """Return a short hash of what a configuration says beyond the defaults."""
    settings = config.model_dump(mode="json", exclude=set(apart), exclude_defaults=True)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
