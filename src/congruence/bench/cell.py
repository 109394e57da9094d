"""Run one cell of a plan: train, measure on the test split once, and write one result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from congruence.bench.plan import Cell
from congruence.config.build import StageRun, run_stage
from congruence.config.schema import RunConfig
from congruence.core.files import write_json
from congruence.evaluation.measure import Measurement, measure

RESULT = "cell.json"


def run_teacher(cell: Cell, folder: Path, **options: Any) -> StageRun:
    """Train the stages before the cell's own, of which the last is its teacher; finished ones are not redone."""
    config = cell.config
    teachers: dict[str, Path] = {}
    for stage in config.stages:
        if stage == cell.stage:
            break
        run = run_stage(config, stage, teachers=teachers, out=folder / stage, resume=True, **options)
        teachers[stage] = run.result.student_file
    return run


def measure_teacher(run: StageRun, folder: Path) -> dict[str, Any]:
    """Measure a teacher on the test split, once: the numbers are kept beside it."""
    path = folder / "teacher.json"
    if not path.exists():
        best, last = measure(run.student, run.splits), measure(run.last_student(), run.splits)
        write_json(path, {**_numbers(best, last), "seconds": round(run.result.seconds, 3)})
    return dict(json.loads(path.read_text(encoding="utf8")))


def _numbers(best: Measurement, last: Measurement) -> dict[str, Any]:
    return {
        "accuracy_best": best.accuracy,
        "accuracy_last": last.accuracy,
        "retrieval_map": best.retrieval_map,
        "gpcl": best.gpcl,
        "parameters": best.parameters,
    }


def teacher_files(cell: Cell, folder: Path) -> dict[str, Path]:
    """Return the files of the earlier stages' students."""
    return {stage: folder / stage / "student.safetensors" for stage in cell.config.stages if stage != cell.stage}


def finished(cell: Cell, folder: Path) -> dict[str, Any] | None:
    """Return the result of a cell that is done.

    Raises:
        ValueError: where the folder holds the result of another config.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    kept = json.loads(path.read_text(encoding="utf8"))
    if kept["key"] != cell.key():
        raise ValueError(
            f"The folder '{folder}' holds the cell of another plan or config: choose another --out. Nothing was changed."
        )
    return dict(kept["result"])


def run_cell(method: str, seed: int, config: Mapping[str, Any], folder: Path, teachers: Mapping[str, Path]) -> Any:
    """Run a cell in this process with one thread, and return its row.

    Takes and returns plain values, so that it can run in a worker process.
    """
    import torch

    torch.set_num_threads(1)
    cell = Cell(method, seed, RunConfig.model_validate(config))
    run = run_stage(cell.config, cell.stage, teachers=teachers, out=folder, resume=True)
    best = measure(run.student, run.splits, teacher=run.teacher)
    last = measure(run.last_student(), run.splits)
    row = {"method": method, "seed": seed, **_numbers(best, last), "seconds": round(run.result.seconds, 3)}
    write_json(folder / RESULT, {"key": cell.key(), "result": row})
    return row
