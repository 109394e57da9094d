"""Run the cells of a plan in worker processes; finished cells are not redone."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from congruence.bench.cell import WEIGHTS, finished, run_cell, teach
from congruence.bench.plan import Cell, Plan
from congruence.core.files import atomic, writable

Row = dict[str, Any]
Report = Callable[[Row, int, int], None]


@dataclass(frozen=True)
class Job:
    """A cell, its folder, and the weights of its teacher."""

    cell: Cell
    folder: Path
    weights: Path | None

    def arguments(self) -> tuple[str, int, dict[str, Any], Path, Path | None]:
        """Return what `run_cell` takes: plain values, which reach another process."""
        return self.cell.method, self.cell.seed, self.cell.config.model_dump(mode="json"), self.folder, self.weights


@dataclass(frozen=True)
class Results:
    """What a plan gave.

    Args:
        rows: one a (method, seed), in the plan's order.
        teachers: the measurements of the teachers, by the key that cells share.
        path: of results.jsonl.
        cells: the folders of the cells, in the same order as `rows`.
    """

    rows: tuple[Row, ...]
    teachers: dict[str, Row]
    path: Path
    cells: tuple[Path, ...]


def run_plan(
    plan: Plan,
    out: Path,
    *,
    workers: int | None = None,
    report: Report | None = None,
    teacher_options: dict[str, Any] | None = None,
) -> Results:
    """Run every cell that has no result yet, and write `results.jsonl`, one line a (method, seed).

    Args:
        plan: of `load_plan`.
        out: the plan's folder: `teachers/`, `cells/METHOD-seedN/` and `results.jsonl`.
        workers: processes, one thread each; by default one a core. 0 runs the cells here, one after another.
        report: called with a row, how many cells are done, and how many there are.
        teacher_options: passed on to the training of teachers (`callbacks`).

    Raises:
        ValueError: where `out` holds another plan's cells, or cannot be written to.
    """
    cells = plan.cells()
    writable(out)
    jobs = {cell.name: Job(cell, out / "cells" / cell.name, _weights(cell, out)) for cell in cells}
    done = {name: row for name, job in jobs.items() if (row := finished(job.cell, job.folder)) is not None}
    taught = _teachers(cells, out, teacher_options or {})

    def keep(name: str, row: Row) -> None:
        done[name] = row
        _write(out / "results.jsonl", [done[name] for name in jobs if name in done])
        if report:
            report(row, len(done), len(jobs))

    for name, row in list(done.items()):
        keep(name, row)
    todo = {name: job for name, job in jobs.items() if name not in done}
    count = min(os.cpu_count() or 1 if workers is None else workers, len(todo))
    if count:
        _in_workers(todo, count, keep)
    for name, job in todo.items():
        if name not in done:
            keep(name, run_cell(*job.arguments()))
    rows = tuple(done[name] for name in jobs)
    return Results(rows, taught, out / "results.jsonl", tuple(job.folder for job in jobs.values()))


def _teachers(cells: Sequence[Cell], out: Path, options: dict[str, Any]) -> dict[str, Row]:
    taught: dict[str, Row] = {}
    for cell in cells:
        if cell.teacher is not None and (key := cell.teacher_key()) not in taught:
            taught[key] = teach(cell, _teacher(cell, out), **options)
    return taught


def _teacher(cell: Cell, out: Path) -> Path:
    """Return the folder of a cell's teacher, which cells of the same one share."""
    return out / "teachers" / cell.teacher_key()


def _weights(cell: Cell, out: Path) -> Path | None:
    return _teacher(cell, out) / WEIGHTS if cell.teacher else None


def _in_workers(todo: Mapping[str, Job], workers: int, keep: Callable[[str, Row], None]) -> None:
    """Run cells in fresh processes; the first that fails ends the plan, and what is done stays."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures: dict[Future[Row], str] = {pool.submit(run_cell, *job.arguments()): name for name, job in todo.items()}
        try:
            for future in as_completed(futures):
                keep(futures[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _write(path: Path, rows: Sequence[Row]) -> None:
    with atomic(path) as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
