"""`run_plan`: runs teachers, trials of weights, and the cells of a plan in worker processes; finished work is kept."""

from __future__ import annotations

import json
import logging
import os
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from congruence.bench import on_ray
from congruence.bench.cell import FAILURE, Job, Loaded, Row, attempt, measure_kept, teach
from congruence.bench.desk import Desk
from congruence.bench.failed import FAILED, sentence
from congruence.bench.kept import RESULTS, TEACHERS, TUNING
from congruence.bench.plan import Cell, Plan, teacher_names
from congruence.bench.pool import Record, in_workers
from congruence.bench.written import NUMBERS, ROW
from congruence.core import check
from congruence.core.files import append_line, atomic, read_json, read_lines, writable, write_json
from congruence.core.importing import UntrustedError, import_callable
from congruence.evaluation.own import own_numbers
from congruence.pipeline.build import rehearse
from congruence.pipeline.context import RunContext

LOG = logging.getLogger("congruence")
Report = Callable[[Row, int, int], None]
Taught = tuple[dict[str, Row], dict[str, str]]
_WORKERS = check.Real(low=0, closed="low", integer=True, optional=True)


@dataclass(frozen=True)
class Results:
    """The results of a plan.


    Args:
        rows: one row for each cell, in the plan's order; a failed cell has `failed`, a sentence, instead of numbers.
        teachers: the measurements of the teachers, by the key that cells share.
        path: path of results.jsonl.
        cells: the folders of the cells, in the same order as `rows`.
    """

    rows: tuple[Row, ...]
    teachers: dict[str, Row]
    path: Path
    cells: tuple[Path, ...]

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows of the cells that failed."""
        return tuple(row for row in self.rows if FAILED in row)


def run_plan(
    plan: Plan,
    out: Path,
    *,
    workers: int | None = None,
    report: Report | None = None,
    teacher_options: dict[str, Any] | None = None,
    metrics: Sequence[str] = (),
    trust: bool = False,
    say: Callable[[str], object] = LOG.info,
    afresh: bool = False,
    retry: bool = False,
    ray: str | None = None,
) -> Results:
    """Run every cell that has no result yet, and write `results.jsonl`, one line for each cell.

    A cell that fails becomes a line with the reason, and the others continue; so do the cells of a teacher that fails,
    and those of a row whose trials all failed. Later calls do not run these again, except with `retry`. A cell whose
    process is killed is restarted up to two times before it counts as failed.
    Lines of rows that are not part of this call stay in the file, so that a plan can be run a few rows at a time. Kept
    results in `plan.results` are reused if everything that determines the numbers is the same
    (`congruence.bench.identity`). Every teacher is trained once, unless it is a kept one or no longer needed; its
    weights are in `teachers/`, its numbers in `teachers.jsonl`. A single teacher is called "teacher", several are named
    after the first row that they teach. If the plan has a search, its trials run first: `tuning.jsonl` has their
    validation accuracies, and each row gets the settings of its best trial (the first of equal ones; in successive
    halving, of the last rung).

    Args:
        plan: the plan, from `load_plan`.
        out: the plan's folder: `teachers/`, `trials/`, `cells/METHOD-VARIANT-seedN/` and `results.jsonl`.
        workers: processes with one thread each; by default one for each core. 0 runs the cells in this process.
        report: called with a row, the number of finished runs, and their total.
        teacher_options: passed on to the training of teachers (`callbacks`).
        metrics: the user's metrics, "package.module:function", which are also measured for every cell.
        trust: whether these, and the factories of configurations, may be imported.
        say: called with a sentence about which results were reused, and which were not.
        afresh: do not reuse kept results.
        retry: run cells that failed before again.
        ray: run cells in a Ray cluster: "local" for one on this machine with `workers` processors, "auto" for an
            existing one, or its address.

    Raises:
        ValueError: if `out` holds another plan's cells, or cannot be written to; before a teacher is trained, also for
            errors in a row that it teaches, and for user code without `trust`.
    """
    check.hyperparameters("run_plan", {"workers": _WORKERS}, workers=workers)
    own_numbers(metrics, trust=trust)
    if ray is not None:
        on_ray.find()
    writable(out)
    desk = Desk(plan, out, metrics=tuple(metrics), trust=trust, afresh=afresh, retry=retry)
    rung, cells = plan.trials(), plan.cells()
    if not trust:
        _check_trust(cells)
    searched = {trial.row for trial in rung}
    pending = desk.pending(cells, rung)
    _rehearse([*desk.jobs(rung, trial=True).values(), *desk.jobs(cells).values()], pending, desk)
    taught, untaught = _teachers(cells, pending, desk, {"trust": trust, **(teacher_options or {})})
    for why in dict.fromkeys(untaught.values()):
        say(f"A teacher failed: {why}")
    desk.settled()
    asked, names = {(cell.method, cell.variant) for cell in cells}, {row["name"] for row in taught.values()}
    _write(out / TEACHERS, [*_left(out / TEACHERS, lambda row: row.get("name") in names), *taught.values()])
    others = {
        path: _left(path, lambda row: (row["method"], row["variant"]) in asked)
        for path in (out / TUNING, out / RESULTS)
    }
    total, done, last, trials = plan.trial_count(rung) + len(cells), 0, rung, dict[str, Row]()

    def told(row: Row) -> None:
        nonlocal done
        done += 1
        if report is not None:
            report(row, done, total)

    def execute(todo: Mapping[str, Job], record: Record) -> None:
        if ray is not None and todo:
            on_ray.in_ray(todo, ray, record, workers=workers, resources=plan.resources)
            return
        count = min(os.cpu_count() or 1 if workers is None else workers, len(todo))
        if count:
            in_workers(todo, count, record)
            return
        loaded = Loaded()
        for name, job in todo.items():
            record(name, attempt(job, loaded))

    while rung:
        jobs = desk.jobs(rung, trial=True)
        finished = desk.take(jobs)
        _say(desk, say)
        finished |= _hopeless(jobs, finished, untaught)
        tried = _run(jobs, finished, execute, out / TUNING, told, [*others[out / TUNING], *trials.values()])
        trials |= {name: tried[name] for name in jobs}
        last, rung = rung, plan.next_trials(rung, {name: row["accuracy"] for name, row in tried.items()})
    jobs = desk.jobs(plan.chosen(cells, last, trials))
    finished = desk.take(jobs)
    _say(desk, say)
    found = {trial.row for trial in last if trials[trial.trial]["accuracy"] is not None}
    finished |= _hopeless(jobs, finished, untaught, searched - found)
    rows = _run(jobs, finished, execute, out / RESULTS, told, others[out / RESULTS])
    folders = tuple(job.folder for job in jobs.values())
    return Results(tuple(rows[name] for name in jobs), taught, out / RESULTS, folders)


def _say(desk: Desk, say: Callable[[str], object]) -> None:
    for told in desk.sentences():
        say(told)


def _hopeless(
    jobs: Mapping[str, Job], finished: Mapping[str, Row], untaught: Mapping[str, str], unfound: Collection[str] = ()
) -> dict[str, Row]:
    """Return the rows of jobs that cannot be run: by why their teachers failed, or for want of a trial."""
    rows = {}
    for name, job in jobs.items():
        key = job.cell.teacher_key() if job.cell.has_teacher else ""
        if name not in finished and key in untaught:
            rows[name] = job.fail(f"Its teacher failed: {untaught[key]}")
        elif name not in finished and job.cell.row in unfound:
            rows[name] = job.fail("Every trial of its search failed.")
    return rows


def _run(
    jobs: Mapping[str, Job],
    finished: Mapping[str, Row],
    execute: Callable[[Mapping[str, Job], Record], None],
    path: Path,
    report: Callable[[Row], object],
    before: Sequence[Row] = (),
) -> dict[str, Row]:
    """Run the jobs that are not finished yet; a file has the rows from before and those done, at the end in order."""
    done = {name: finished[name] for name in jobs if name in finished}
    _write(path, [*before, *done.values()])
    for row in done.values():
        report(row)

    def record(name: str, row: Row) -> None:
        done[name] = row
        append_line(path, row)  # the whole file for each of n cells would be n² lines
        report(row)

    execute({name: job for name, job in jobs.items() if name not in done}, record)
    ordered = {name: done[name] for name in jobs}
    if list(ordered) != list(done):
        _write(path, [*before, *ordered.values()])
    return ordered


def _check_trust(cells: Sequence[Cell]) -> None:
    """Refuse factories of the user's own, which nobody trusts, before anything is trained."""
    for cell in cells:
        config = cell.config
        models = [
            model
            for stage in config.stages.values()
            for model in (*stage.students().values(), *config.teachers_of(stage).values())
        ]
        for factory in (config.data.factory, *(model.factory for model in models)):
            if factory is not None:
                import_callable(factory, what="factory", trust=False)


def _rehearse(jobs: Sequence[Job], pending: Collection[str], desk: Desk) -> None:
    """Find out whether the rows fit whose teacher is still to be trained, or a kept one; seeds of a row fit alike.

    Those of a kept one of which a run is there, or a kept line, do.
    """
    rows = {(job.cell.row, job.trial): job for job in jobs if job.cell.row in pending and job.weights}
    known = {(job.cell.row, job.trial) for job in jobs if job.cell.kept is not None and desk.begun(job)}
    for name, job in rows.items():
        if (job.cell.kept is not None and name not in known) or not (job.weights and job.weights.exists()):
            config = job.cell.config
            rehearse(config, RunContext(desk.splits(config.data), trust=job.trust))


def _teachers(cells: Sequence[Cell], pending: Collection[str], desk: Desk, options: dict[str, Any]) -> Taught:
    """Return the teachers' numbers by the key that cells share, and why others failed; train those still needed."""
    needed = {cell.teacher_key() for cell in cells if cell.row in pending and cell.has_teacher}
    rows, failed = dict[str, Row](), dict[str, str]()
    names = teacher_names(cells)
    for cell in cells:
        key = cell.teacher_key() if cell.has_teacher else None
        if key is None or key in rows or key in failed:
            continue
        folder, made = desk.folder_of(cell), desk.made_of_teacher(cell)
        trains = key in needed and cell.teacher is not None
        row = None if trains or (folder / "teacher.json").exists() else desk.kept_teacher(cell)
        if row is None and not trains and (folder / FAILURE).exists():  # those that need it are left as they are
            failed[key] = read_json(folder / FAILURE, {FAILED: str, "*": object})[FAILED]
            continue
        try:
            if row is None and cell.teacher is None:
                row = measure_kept(cell, folder, made, trust=options.get("trust", False))
            elif row is None and cell.teacher is not None:
                row = teach(cell, cell.teacher, folder, made, **options)
        except UntrustedError:  # no failure of a cell: the call lacks a word
            raise
        except Exception as error:
            failed[key] = sentence(error)
            write_json(folder / FAILURE, {FAILED: failed[key], "traceback": traceback.format_exc().splitlines()})
            continue
        (folder / FAILURE).unlink(missing_ok=True)
        rows[key] = {"name": names[key]} | {k: v for k, v in (row or {}).items() if k != "name"}
    return rows, failed


def _left(path: Path, asked: Callable[[Row], bool]) -> list[Row]:
    """Return the lines of a file that are not asked for now."""
    return [row for row in read_lines(path, NUMBERS if path.name == TEACHERS else ROW) if not asked(row)]


def _write(path: Path, rows: Sequence[Row]) -> None:
    with atomic(path) as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
