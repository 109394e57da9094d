"""What figures are drawn from: the rows of plans, and runs with their curves, configurations and models."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from congruence.bench.kept import RESULTS, TEACHERS, Shelf
from congruence.bench.naming import cell_name
from congruence.config.load import load_config
from congruence.config.schema import RunConfig
from congruence.core.check import sentence
from congruence.core.files import read_json, read_lines
from congruence.core.kinds import ANY_TABLE
from congruence.evaluation.embed import Embedded
from congruence.report.rebuilt import VIEWS, of_run, read
from congruence.training.saving.run_directory import RunDirectory

LOG = logging.getLogger("congruence")
Row = Mapping[str, Any]
_SEED = re.compile(r"(.+)-seed(\d+)")


class LackingError(ValueError):
    """What the given folders lack for a figure, in a sentence."""


class Pair(NamedTuple):
    """A student and its teacher on the same samples, at most 10,000 of them, and the names of the classes."""

    name: str
    student: Embedded
    teacher: Embedded
    classes: Sequence[str]

    def labels(self) -> Tensor:
        """Return the samples' classes.

        Raises:
            LackingError: where no sample has one.
        """
        labels = self.student.labels
        if labels is None or not bool((labels >= 0).any()):
            raise LackingError(f"The samples of the run '{self.name}' have no labels.")
        return labels


class Given:
    """The folders that a call names, read when a figure asks.

    Args:
        folders: of runs, and of plans (with results.jsonl; runs of a plan are found in its `cells`).
        trust: whether factories that runs name may be imported.
        seed: of what a figure draws at random.
        epochs: of the toys.

    Attributes:
        rows: one a cell of a plan, with "plan", and one a run that has test numbers, with its folder's name as
            "method" and `accuracy_best`; "-seed3" at the name's end is its seed.
        teachers: the plans' teachers, each with "plan".
        runs: folders of runs by name.

    Raises:
        ValueError: in one sentence, for a folder that is neither.
    """

    def __init__(
        self, folders: Sequence[str | Path] = (), *, trust: bool = False, seed: int = 0, epochs: int = 800
    ) -> None:
        self.folders = [Path(folder) for folder in folders]
        self.trust, self.seed, self.epochs = trust, seed, epochs
        self.rows: list[Row] = []
        self.teachers: list[Row] = []
        self.runs: dict[str, Path] = {}
        self._pairs: dict[str, list[Pair] | str] = {}  # read when a figure first asks
        for folder in self.folders:
            if (folder / RESULTS).is_file():
                self._add_plan(folder)
            elif RunDirectory(folder).identity.is_file():
                self._add_run(folder)
            elif not folder.is_dir():
                raise ValueError(f"There is no folder '{folder}': give the folders of runs or plans.")
            else:
                run = RunDirectory(folder).identity.name
                raise ValueError(f"The folder '{folder}' holds no run ({run}) and no plan's results ({RESULTS}).")

    def _add_plan(self, folder: Path) -> None:
        shelf, plan = Shelf(folder), folder.resolve().name
        self.rows += [{**row, "plan": plan} for row in shelf.lines[RESULTS]]
        self.teachers += [{**row, "plan": plan} for row in shelf.lines[TEACHERS]]
        shown: set[tuple[str, str]] = set()  # of each row the first seed
        for row in shelf.lines[RESULTS]:
            method, variant = row["method"], row.get("variant", "")
            cell = folder / "cells" / cell_name(method, variant, row["seed"])
            if (method, variant) not in shown and RunDirectory(cell).identity.is_file():
                shown.add((method, variant))
                self._name(", ".join(filter(None, (method, variant))), cell)

    def _add_run(self, folder: Path) -> None:
        name = folder.resolve().name
        self._name(name, folder)
        numbers = self._tested(folder)
        if numbers:
            method, seed = (found[1], int(found[2])) if (found := _SEED.fullmatch(name)) else (name, 0)
            best = {"accuracy_best": numbers.get("accuracy")} | numbers
            self.rows.append({"method": method, "variant": "", "seed": seed, "plan": "", **best})

    @staticmethod
    def _tested(folder: Path) -> dict[str, Any]:
        file = RunDirectory(folder).test_file()
        found: dict[str, dict[str, Any]] = read_json(file, {"*": ANY_TABLE}) if file.is_file() else {}
        return found.get("best", {})

    def _name(self, name: str, folder: Path) -> None:
        self.runs[name if name not in self.runs else str(folder)] = folder

    @cached_property
    def lines(self) -> dict[str, list[dict[str, Any]]]:
        """The lines of each run's metrics.jsonl."""
        return {run: read_lines(RunDirectory(folder).metrics) for run, folder in self.runs.items()}

    def curves(self, key: str, group: str = "") -> dict[str, list[tuple[int, float]]]:
        """Return by run a number of metrics.jsonl by epoch, as `by_epoch`; runs without it are left out."""
        found = {run: by_epoch(lines, key, group) for run, lines in self.lines.items()}
        return {run: points for run, points in found.items() if points}

    def config(self, name: str) -> RunConfig | None:
        """Return the configuration of a run, None of one that has none, or one of another version."""
        file = RunDirectory(self.runs[name]).config
        if not file.is_file():
            return None
        try:
            return load_config(file)
        except ValueError as error:
            LOG.warning("'%s' is not read: %s", file, sentence(error))
            return None

    @property
    def pairs(self) -> list[Pair]:
        """The students of the first runs that have a teacher, four at most, each beside it on the run's test samples.

        Raises:
            LackingError: where there is none, with the reason.
        """
        return self.pairs_of(VIEWS)

    def pairs_of(self, most: int | None = None) -> list[Pair]:
        """Return the first `most` of all students that have a teacher, as `pairs`; None: all of them."""
        found: list[Pair] = []
        for run in self.runs:
            if most is not None and len(found) >= most:
                break
            if run not in self._pairs:
                self._pairs[run] = self._paired(run)
            pairs = self._pairs[run]
            found += () if isinstance(pairs, str) else pairs
        if not found:
            why = next((pairs for pairs in self._pairs.values() if isinstance(pairs, str)), "")
            raise LackingError(why or "There is no run among the folders, only numbers.")
        return found[:most]

    def _paired(self, run: str) -> list[Pair] | str:
        """Return the students of a run beside its teacher, or why they cannot be had."""
        try:
            models = of_run(self.runs[run], run, trust=self.trust)
            seen = read(models)
        except ValueError as error:
            return f"The run '{run}' cannot be drawn: {sentence(error)}"
        return [
            Pair(models.shown.get(student, student), rows, seen.teacher, seen.classes)
            for student, rows in seen.students.items()
        ]


def by_epoch(lines: Sequence[Mapping[str, Any]], key: str, group: str = "") -> list[tuple[int, float]]:
    """Return a number by the count of epochs that are done; of an epoch with several lines their mean.

    Args:
        lines: of a run's metrics.jsonl.
        key: of the number.
        group: the table in which it is: "validation", "diagnostics"; "" for the losses of training.

    Example:
        >>> by_epoch([{"epoch": 0, "kd": 3.0}, {"epoch": 0, "kd": 1.0}, {"epoch": 1, "validation": {"kd": 9.0}}], "kd")
        [(1, 2.0)]
    """
    found: dict[int, list[float]] = {}
    for line in lines:
        table = line.get(group) if group else line
        value = table.get(key) if isinstance(table, Mapping) else None
        if isinstance(value, int | float) and math.isfinite(value) and isinstance(line.get("epoch"), int):
            found.setdefault(line["epoch"] + 1, []).append(float(value))
    return [(epoch, sum(values) / len(values)) for epoch, values in sorted(found.items())]
