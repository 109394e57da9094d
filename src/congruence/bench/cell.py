"""Run one cell of a plan: train, measure on the test split once, and write one result."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from congruence.bench.plan import Cell
from congruence.config.schema import RunConfig
from congruence.config.stages import StageRun, run
from congruence.config.student import load_student
from congruence.core.files import write_json
from congruence.evaluation.measure import accuracy_on_test, measure

RESULT = "cell.json"
WEIGHTS = "student.safetensors"


def teach(cell: Cell, folder: Path, **options: Any) -> dict[str, Any]:
    """Train the stages that the cell's student learns from, unless they are there; return the teacher's numbers."""
    path = folder / "teacher.json"
    if not path.exists():
        stage = str(cell.teacher)
        with _one_thread():
            trained = run(cell.config, folder, resume=True, only=stage, **options)[stage]
            write_json(path, _numbers(trained, folder))
    return dict(json.loads(path.read_text(encoding="utf8")))


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
            f"The folder '{folder}' holds a cell of another plan or config: choose another --out. Nothing was changed."
        )
    return dict(kept["result"])


def run_cell(method: str, seed: int, config: Mapping[str, Any], folder: Path, teacher: Path | None) -> dict[str, Any]:
    """Run a cell with one thread, and return its row; takes and returns plain values, for worker processes.

    Args:
        method: the plan's name of the row.
        seed: of the student.
        config: the cell's `RunConfig` as plain values.
        folder: the cell's.
        teacher: the teacher's weights, None where there is none.
    """
    cell = Cell(method, seed, RunConfig.model_validate(config))
    own = cell.config.with_teacher(teacher) if teacher else cell.config
    with _one_thread():
        trained = run(own, folder, resume=True)[own.last]
        row = {"method": method, "seed": seed, **_numbers(trained, folder)}
    write_json(folder / RESULT, {"key": cell.key(), "result": row})
    return row


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread: their number changes the last bits, and cells run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _numbers(trained: StageRun, folder: Path) -> dict[str, Any]:
    """Return a row's numbers: those of the first student, where they are several that teach each other."""
    name, student = next(iter(trained.students.items()))
    best = measure(student, trained.splits, teacher=trained.teacher)
    last = load_student(folder, lambda: student, name=name, last=True)
    return {
        "accuracy_best": best.accuracy,
        "accuracy_last": accuracy_on_test(last, trained.splits),
        "retrieval_map": best.retrieval_map,
        "gpcl": best.gpcl,
        "parameters": best.parameters,
        "seconds": round(trained.result.seconds, 3),
    }
