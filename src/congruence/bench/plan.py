"""`Plan`, methods × variants × seeds with a search for weights (`Tune`), and the runs it consists of (`Cell`)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from congruence.bench.halving import Halving
from congruence.bench.naming import PLAIN, cell_name, misnamed, row_name
from congruence.bench.published import Published
from congruence.bench.teachers import KeptTeacher, load_kept
from congruence.config.load import load_config
from congruence.config.references import StudentRef
from congruence.config.schema import RunConfig
from congruence.config.tables import TermConfig
from congruence.core import check
from congruence.core.brevity import brief
from congruence.methods.term import Term
from congruence.training.saving.identity import TEACHER_APART

_WEIGHT = re.compile(r"\bweight\s*=")


@dataclass(frozen=True)
class Tune:
    """A search for the weight of each method, the same for all methods:

    one short run for each factor, judged on validation.

    Args:
        factors: factors on the recipe's weight of the terms whose key is the method's name; if there are none, of all
            terms with a teacher.
        seed: seed of these runs, different from the plan's.
        overrides: `KEY=VALUE` for these runs only (such as fewer epochs).
        variants: such overrides for single variants.
    """

    factors: tuple[float, ...]
    seed: int
    overrides: tuple[str, ...] = ()
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One run of a plan: a method, in a variant, with a seed.

    Args:
        method: name of its row.
        seed: the student's seed.
        config: configuration of the run.
        variant: name of the plan's variant.
        factor: factor on the weights of the recipe, if they are searched by factors.
        kept: the kept teacher that its plan names for it; the configuration then has its weights.
        found: values set by a search by halving, by the keys of its ranges.
        candidate: the candidate's number, if the cell is a trial of such a search.
        rung: the trial's rung.
        course: the epochs of the trial's last rung.
    """

    method: str
    seed: int
    config: RunConfig
    variant: str = PLAIN
    factor: float = 1.0
    kept: KeptTeacher | None = None
    found: Mapping[str, float] = field(default_factory=dict)
    candidate: int | None = None
    rung: int = 0
    course: int = 0

    @property
    def row(self) -> str:
        """The cell's method and variant."""
        return row_name(self.method, self.variant)

    @property
    def name(self) -> str:
        """The cell's folder."""
        return cell_name(self.method, self.variant, self.seed)

    @property
    def trial(self) -> str:
        """The cell's folder where it is a trial."""
        number = f"x{self.factor:g}" if self.candidate is None else f"c{self.candidate}-r{self.rung}"
        return f"{self.row}-{number}"

    @property
    def epochs(self) -> int | None:
        """Of the last stage; None if its steps are counted."""
        return self.config.stages[self.config.last].train.epochs

    @property
    def teacher(self) -> StudentRef | None:
        """The earlier stage's student that teaches, None if there is none."""
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

    def with_found(self, values: Mapping[str, float]) -> Cell:
        """Return the cell with what a candidate of a search by halving sets.

        Raises:
            ValueError: if a term cannot have it.
        """
        cell = self.weighted(values.get("factor", 1.0))
        stage, tuned = cell.config.stages[cell.config.last], cell.tuned()
        own = {key: value for key, value in values.items() if key not in ("lr", "factor")}
        changed: dict[str, Any] = {"terms": list(stage.terms)}
        if "lr" in values:
            optimizer = stage.train.optimizer.model_copy(update={"lr": values["lr"]})
            changed["train"] = stage.train.model_copy(update={"optimizer": optimizer})
        for number in tuned if own else ():
            term = stage.terms[number]
            told = term.model_dump(exclude={"key"}) | own
            Term(term.key, **told)  # which says what is wrong
            changed["terms"][number] = term.model_copy(update=own)
        return replace(cell, config=_changed(cell.config, **changed), found=dict(values))

    def with_weight(self, weight: str) -> Cell:
        """Return the cell with a weight in a word, "balanced" or "published", of its `tuned` terms."""
        terms = list(self.config.stages[self.config.last].terms)
        for number in self.tuned():
            told = terms[number].model_dump(exclude={"share"}) | {"weight": weight}
            terms[number] = TermConfig.model_validate(told)
        return replace(self, config=_changed(self.config, terms=terms))

    def longer(self, epochs: int, rung: int) -> Cell:
        """Return a trial with the epochs of a rung."""
        train = self.config.stages[self.config.last].train.model_copy(update={"epochs": epochs})
        return replace(self, config=_changed(self.config, train=train), rung=rung)

    def seeded(self, seed: int) -> Cell:
        """Return the cell with another seed."""
        return replace(self, config=_seeded(self.config, seed), seed=seed)

    @property
    def has_teacher(self) -> bool:
        """Whether an earlier stage teaches the student, or a kept teacher in its place."""
        return self.teacher is not None or self.kept is not None

    def teacher_key(self) -> str:
        """Return a name of all that decides the teacher, by which cells share one: that of a kept one, or a hash."""
        if self.teacher is None and self.kept is not None:
            return self.kept.name
        if self.teacher is None:
            raise ValueError(f"The row '{self.row}' has no earlier stage that teaches it.")
        key = digest(self._portable().upto(self.teacher.stage), apart=TEACHER_APART)
        return key if self.teacher.student == "student" else f"{key}-{self.teacher.student}"

    def key(self) -> str:
        """Return a hash of all that decides the cell's result, wherever a kept teacher lies."""
        return digest(self._portable())

    def _portable(self) -> RunConfig:
        return self.config if self.kept is None else self.kept.without_path(self.config)


@dataclass(frozen=True)
class Plan:
    """Methods × variants × seeds.

    Args:
        name: name of the plan.
        recipes: a recipe (name or path) for each method's row.
        seeds: seeds of the students; the teacher's seed is in its recipe.
        overrides: `KEY=VALUE` for every recipe.
        variants: further overrides by the variant's name.
        tune: how weights are chosen; None for those of the recipes.
        own: further overrides of single rows, by the method's name or by `Cell.row`.
        last: overrides that take precedence over all others: the command line's.
        seeds_of: seeds of single variants, if they differ.
        teacher: name of a kept teacher for all rows that learn from an earlier stage; None: the teacher is trained as
            in their recipes.
        teachers: kept teachers of single rows, by the method's name or by `Cell.row`; "" for one that is trained.
        results: the folder of kept results, `results/` of a checkout; None for none.
        weight: "balanced" or "published" for the terms whose weight would be searched, in rows whose own overrides do
            not set a weight; None: as in the recipes.
        baseline: the row with which the others are compared in the tables, seed by seed.
        resources: resources of a cell in a cluster: `cpus`, `gpus` and `memory` in bytes; not used for local workers.
        published: a paper's numbers for the rows; None for none.
        average: whether the tables are followed by one of the means over all variants.

    Raises:
        ValueError: for names that cannot be folders, or rows that would share one.
    """

    name: str
    recipes: Mapping[str, str]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...] = ()
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {PLAIN: ()})
    tune: Tune | Halving | None = None
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    last: tuple[str, ...] = ()
    seeds_of: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    teacher: str | None = None
    teachers: Mapping[str, str] = field(default_factory=dict)
    results: Path | None = None
    weight: str | None = None
    baseline: str | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    published: Published | None = None
    average: bool = False

    def __post_init__(self) -> None:
        if lines := misnamed(self.name, self.recipes, self.variants):
            raise ValueError(f"The plan {brief(self.name)}: {lines[0]}")

    def only(self, *variants: str, methods: Sequence[str] = ()) -> Plan:
        """Return the plan with some of its variants, and of its methods where some are named.

        Raises:
            ValueError: for one that it does not have.
        """
        for name in methods:
            if name not in self.recipes:
                raise ValueError(f"The plan '{self.name}' has no method '{name}'.{check.near(name, self.recipes)}")
        for name in variants:
            if name not in self.variants:
                named = ", ".join(filter(None, self.variants)) or "none"
                near = check.near(name, self.variants)
                raise ValueError(f"The plan '{self.name}' has no variant '{name}' (it has: {named}).{near}")
        kept = {name: self.variants[name] for name in self.variants if name in variants} if variants else self.variants
        recipes = {name: recipe for name, recipe in self.recipes.items() if not methods or name in methods}
        return replace(self, variants=kept, recipes=recipes)

    def seeds_in(self, variant: str) -> tuple[int, ...]:
        """Return the seeds of a variant."""
        return self.seeds_of.get(variant, self.seeds)

    def count(self) -> int:
        """Return how many cells there are."""
        return len(self.recipes) * sum(len(self.seeds_in(variant)) for variant in self.variants)

    def holds_out(self) -> bool | None:
        """Return whether training images are held out for validation; None if that differs between rows."""
        found = {cell.config.data.validation != 0 for cell in self.cells()}
        return found.pop() if len(found) == 1 else None

    def cells(self) -> list[Cell]:
        """Return the cells, variant by variant and method by method, with the recipes' weights."""
        cells = []
        for method, recipe, variant, settings in self._rows():
            cell = self._cell(method, recipe, variant, (*settings, *self.last))
            cells += [cell.seeded(seed) for seed in self.seeds_in(variant)]
        return cells

    def trials(self) -> list[Cell]:
        """Return the first runs by which weights and other settings are chosen.

        Of factors all there are, and a method whose terms have no teacher needs none; of halving the first rung.
        """
        trials: list[Cell] = []
        tune = self.tune
        if tune is None:
            return trials
        for method, recipe, variant, settings in self._rows():
            shorter = (*settings, *tune.overrides, *tune.variants.get(variant, ()), *self.last)
            cell = self._cell(method, recipe, variant, shorter).seeded(tune.seed)
            if isinstance(tune, Halving):
                course = tune.course(cell.row, cell.epochs)
                keys = [key for key in tune.ranges if key == "lr" or cell.tuned()]
                for number, values in enumerate(tune.values(keys) if keys else ()):
                    tried = replace(cell.with_found(values), candidate=number, course=course)
                    trials.append(tried.longer(tune.epochs(course, 0), 0))
            elif cell.tuned():
                trials += [cell.weighted(factor) for factor in tune.factors]
        return trials

    def next_trials(self, trials: Sequence[Cell], accuracies: Mapping[str, float | None]) -> list[Cell]:
        """Return the next rung: of each row the trials that did best, with more epochs; none after the last.

        Args:
            trials: of one rung.
            accuracies: of each, on validation, by `Cell.trial`; None of those that failed, which do not go on.
        """
        tune, later = self.tune, list[Cell]()
        if not isinstance(tune, Halving) or not trials or trials[0].rung + 1 >= tune.rungs:
            return []
        rung = trials[0].rung + 1
        for row in dict.fromkeys(trial.row for trial in trials):
            of_row = [trial for trial in trials if trial.row == row]
            judged = [(accuracy, t) for t in of_row if (accuracy := accuracies[t.trial]) is not None]
            best = [t for _, t in sorted(judged, key=lambda pair: -pair[0])][: tune.survivors(rung)]
            passed = {trial.candidate for trial in best}
            later += [t.longer(tune.epochs(t.course, rung), rung) for t in of_row if t.candidate in passed]
        return later

    def chosen(
        self, cells: Sequence[Cell], trials: Sequence[Cell], rows: Mapping[str, Mapping[str, Any]]
    ) -> list[Cell]:
        """Return cells with what the best trial of each row had, the first of equal ones; none that failed.

        Args:
            cells: of the plan.
            trials: of the last rung.
            rows: of each, by `Cell.trial`.
        """
        best: dict[str, Cell] = {}
        for trial in trials:
            if rows[trial.trial]["accuracy"] is None:
                continue
            before = best.get(trial.row)
            if before is None or rows[trial.trial]["accuracy"] > rows[before.trial]["accuracy"]:
                best[trial.row] = trial
        if isinstance(self.tune, Halving):
            return [cell.with_found(best[cell.row].found) if cell.row in best else cell for cell in cells]
        return [cell.weighted(best[cell.row].factor if cell.row in best else 1.0) for cell in cells]

    def trial_count(self, trials: Sequence[Cell]) -> int:
        """Return how many trials there are in all, given the first ones."""
        if not isinstance(self.tune, Halving):
            return len(trials)
        rows = {trial.row for trial in trials}
        return len(rows) * sum(self.tune.survivors(rung) for rung in range(self.tune.rungs))

    def _cell(self, method: str, recipe: str, variant: str, settings: tuple[str, ...]) -> Cell:
        """Return a row's cell with the seed of its recipe, and the kept teacher that is named for it."""
        config = load_config(recipe, settings)
        cell = Cell(method, config.stages[config.last].train.seed, config, variant)
        own = (*self.own.get(method, ()), *self.own.get(cell.row, ()), *self.last)
        if self.weight is not None and not any(_WEIGHT.search(text) for text in own):
            cell = cell.with_weight(self.weight)
            config = cell.config
        name = self.teachers.get(cell.row, self.teachers.get(method, self.teacher))
        if not name:
            return cell
        kept = load_kept(self.results, name, self.name)
        taught = kept.teach(config)
        return cell if taught is config else replace(cell, config=taught, kept=kept)

    def _rows(self) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
        """Yield (method, recipe, variant, settings KEY=VALUE) for each row of the plan's table."""
        for variant, more in self.variants.items():
            for method, recipe in self.recipes.items():
                own = (*self.own.get(method, ()), *self.own.get(f"{method}-{variant}", ()))
                yield method, recipe, variant, (*self.overrides, *more, *own)


def teacher_names(cells: Iterable[Cell]) -> dict[str, str]:
    """Return what the teachers of cells are called, by `Cell.teacher_key`: "teacher", or after the row they teach."""
    pupils: dict[str, str] = {}
    for cell in cells:
        if cell.has_teacher:
            pupils.setdefault(cell.teacher_key(), cell.row)
    return {key: "teacher" if len(pupils) == 1 else f"teacher, {row}" for key, row in pupils.items()}


def _changed(config: RunConfig, **values: Any) -> RunConfig:
    """Return the configuration with some values of its last stage exchanged."""
    stage = config.stages[config.last].model_copy(update=values)
    return config.model_copy(update={"stages": {**config.stages, config.last: stage}})


def _seeded(config: RunConfig, seed: int) -> RunConfig:
    return _changed(config, train=config.stages[config.last].train.model_copy(update={"seed": seed}))


def _times(weight: Any, factor: float) -> Any:
    if isinstance(weight, Mapping):
        return {part: value * factor for part, value in weight.items()}
    if isinstance(weight, str):
        raise ValueError(f"A weight that is '{weight}' cannot be multiplied by {factor:g}: search over its share.")
    return weight * factor


def digest(config: RunConfig, apart: tuple[str, ...] = ()) -> str:
    """Return a short hash of what a configuration says beyond the defaults."""
    settings = config.model_dump(mode="json", exclude=set(apart), exclude_defaults=True)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
