"""Run the cells of a plan in worker processes; finished cells are not redone."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from congruence.bench.cell import finished, measure_teacher, run_cell, run_teacher, teacher_files
from congruence.bench.plan import Cell, Plan
from congruence.core.files import atomic, writable

Row = dict[str, Any]
Report = Callable[[Row, int, int], None]


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
    folders = {cell: out / "cells" / cell.name for cell in cells}
    done = {cell: row for cell in cells if (row := finished(cell, folders[cell])) is not None}
    taught = _teachers(cells, out, teacher_options or {})
    files = {cell: teacher_files(cell, out / "teachers" / cell.teacher_key()) for cell in cells}

    def keep(cell: Cell, row: Row) -> None:
        done[cell] = row
        _write(out / "results.jsonl", [done[c] for c in cells if c in done])
        if report:
            report(row, len(done), len(cells))

    for cell, row in list(done.items()):
        keep(cell, row)
    todo = [cell for cell in cells if cell not in done]
    count = os.cpu_count() or 1 if workers is None else workers
    if count == 0:
        for cell in todo:
            keep(cell, run_cell(*_arguments(cell, folders[cell]), files[cell]))
    elif todo:
        _in_workers(todo, folders, files, min(count, len(todo)), keep)
    rows = tuple(done[cell] for cell in cells)
    return Results(rows, taught, out / "results.jsonl", tuple(folders.values()))


def _teachers(cells: Sequence[Cell], out: Path, options: dict[str, Any]) -> dict[str, Row]:
    taught: dict[str, Row] = {}
    for cell in cells:
        key = cell.teacher_key()
        if cell.teacher is None or key in taught:
            continue
        folder = out / "teachers" / key
        taught[key] = measure_teacher(run_teacher(cell, folder, **options), folder)
    return taught


def _arguments(cell: Cell, folder: Path) -> tuple[str, int, dict[str, Any], Path]:
    return cell.method, cell.seed, cell.config.model_dump(mode="json"), folder


def _in_workers(
    todo: Sequence[Cell],
    folders: dict[Cell, Path],
    files: dict[Cell, dict[str, Path]],
    workers: int,
    keep: Callable[[Cell, Row], None],
) -> None:
    """Run cells in fresh processes; the first that fails ends the plan, and what is done stays."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures: dict[Future[Any], Cell] = {
            pool.submit(run_cell, *_arguments(cell, folders[cell]), files[cell]): cell for cell in todo
        }
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
