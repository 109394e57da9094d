"""`run_plan`: teachers, then trials of weights, then the cells of a plan, in worker processes; what is done stays."""

from __future__ import annotations

import functools
import json
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from congruence.bench.cell import Job, Row, run_cell, teach
from congruence.bench.plan import Cell, Plan
from congruence.config.references import StudentRef
from congruence.core import check
from congruence.core.files import atomic, writable
from congruence.data import Splits
from congruence.evaluation.own import own_numbers
from congruence.pipeline.build import rehearse
from congruence.pipeline.context import RunContext, load_splits
from congruence.training.saving.run_directory import RunDirectory

Report = Callable[[Row, int, int], None]
_WORKERS = check.Real(low=0, closed="low", integer=True, optional=True)


@dataclass(frozen=True)
class Results:
    """What a plan gave.

    Args:
        rows: one a cell, in the plan's order.
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
    metrics: Sequence[str] = (),
    trust: bool = False,
) -> Results:
    """Run every cell that has no result yet, and write `results.jsonl`, one line a cell.

    The teachers' numbers go to `teachers.jsonl`, each with a `name`. Where the plan tunes weights, its trials come
    first: `tuning.jsonl` has their validation accuracies, and each method gets the factor with the largest one (the
    first of equal ones).

    Args:
        plan: of `load_plan`.
        out: the plan's folder: `teachers/`, `trials/`, `cells/METHOD-VARIANT-seedN/` and `results.jsonl`.
        workers: processes, one thread each; by default one a core. 0 runs the cells here, one after another.
        report: called with a row, how many runs are done, and how many there are.
        teacher_options: passed on to the training of teachers (`callbacks`).
        metrics: of the user's own, "package.module:function", by which every cell is measured as well.
        trust: whether these, and the factories of configurations, may be imported.

    Raises:
        ValueError: where `out` holds another plan's cells, or cannot be written to; before a teacher is trained also
            for what does not fit in a row that it teaches.
    """
    check.hyperparameters("run_plan", {"workers": _WORKERS}, workers=workers)
    own_numbers(metrics, trust=trust)
    writable(out)

    job = functools.partial(_job, out=out, metrics=tuple(metrics), trust=trust)
    trials = {cell.trial: job(cell, "trials") for cell in plan.trials()}
    cells = plan.cells()
    total = len(trials) + len(cells)
    finished_trials = {name: row for name, job in trials.items() if (row := job.finished()) is not None}
    _rehearse([*trials.values(), *(job(cell, "cells") for cell in cells)])
    taught = _teachers(cells, out, {"trust": trust, **(teacher_options or {})})
    _write(out / "teachers.jsonl", list(taught.values()))
    tried = _run(
        trials,
        finished_trials,
        workers,
        out / "tuning.jsonl",
        lambda row, done: report and report(row, done, total),
    )
    factors = _best(trials, tried)
    weighted = [cell.weighted(factors.get(cell.row, 1.0)) for cell in cells]
    jobs = {cell.name: job(cell, "cells") for cell in weighted}
    finished = {name: row for name, job in jobs.items() if (row := job.finished()) is not None}
    rows = _run(
        jobs,
        finished,
        workers,
        out / "results.jsonl",
        lambda row, done: report and report(row, len(trials) + done, total),
    )
    return Results(
        tuple(rows[name] for name in jobs),
        taught,
        out / "results.jsonl",
        tuple(job.folder for job in jobs.values()),
    )


def _job(cell: Cell, kind: str, *, out: Path, metrics: tuple[str, ...], trust: bool) -> Job:
    trial = kind == "trials"
    weights = RunDirectory(_teacher(cell, out)).student_file(cell.teacher.student) if cell.teacher else None
    return Job(cell, out / kind / (cell.trial if trial else cell.name), weights, trial, metrics, trust)


def _best(trials: Mapping[str, Job], rows: Mapping[str, Row]) -> dict[str, float]:
    """Return the factor of the best trial for each method and variant."""
    best: dict[str, Row] = {}
    for name, job in trials.items():
        row = rows[name]
        if row["accuracy"] > best.get(job.cell.row, {"accuracy": -1.0})["accuracy"]:
            best[job.cell.row] = row
    return {name: row["factor"] for name, row in best.items()}


def _run(
    jobs: Mapping[str, Job],
    finished: Mapping[str, Row],
    workers: int | None,
    path: Path,
    report: Callable[[Row, int], object],
) -> dict[str, Row]:
    """Run the jobs that are not finished yet, and keep a file of all rows up to date."""
    done: dict[str, Row] = {}

    def record(name: str, row: Row) -> None:
        done[name] = row
        _write(path, [done[name] for name in jobs if name in done])
        report(row, len(done))

    for name, row in finished.items():
        record(name, row)
    todo = {name: job for name, job in jobs.items() if name not in done}
    count = min(os.cpu_count() or 1 if workers is None else workers, len(todo))
    if count:
        _in_workers(todo, count, record)
    for name, job in todo.items():
        if name not in done:
            record(name, run_cell(job))
    return done


def _rehearse(jobs: Sequence[Job]) -> None:
    """Find out whether the rows fit whose teacher is still to be trained; the seeds of a row fit alike."""
    rows = {(job.cell.row, job.trial): job for job in jobs if job.weights and not job.weights.exists()}
    splits: dict[str, Splits] = {}
    for job in rows.values():
        config = job.cell.config
        name = repr(config.data)
        if name not in splits:
            splits = {name: load_splits(config.data)}
        rehearse(config, RunContext(splits[name], trust=job.trust))


def _teachers(cells: Sequence[Cell], out: Path, options: dict[str, Any]) -> dict[str, Row]:
    """Train the teachers, and name each where there are several: after the first row of cells that it teaches."""
    pupils: dict[str, tuple[Cell, StudentRef]] = {}
    for cell in cells:
        if cell.teacher is not None:
            pupils.setdefault(cell.teacher_key(), (cell, cell.teacher))
    return {
        key: {"name": "teacher" if len(pupils) == 1 else f"teacher, {cell.row}"}
        | teach(cell, teacher, _teacher(cell, out), **options)
        for key, (cell, teacher) in pupils.items()
    }


def _teacher(cell: Cell, out: Path) -> Path:
    """Return the folder of a cell's teacher, which cells of the same one share."""
    return out / "teachers" / cell.teacher_key()


def _in_workers(todo: Mapping[str, Job], workers: int, record: Callable[[str, Row], None]) -> None:
    """Run cells in fresh processes; the first that fails ends the plan, and what is done stays."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        futures: dict[Future[Row], str] = {pool.submit(run_cell, job): name for name, job in todo.items()}
        try:
            for future in as_completed(futures):
                record(futures[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _end_with_parent() -> None:
    """End this worker when the process that started it is gone, however it was killed."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            multiprocessing.connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write(path: Path, rows: Sequence[Row]) -> None:
    with atomic(path) as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
