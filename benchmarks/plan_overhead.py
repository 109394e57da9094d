"""What a plan costs beside the training of its cells: 200 cells of one step each, in this process.

A cell's own seconds, of its training, are taken off; what is left reads and writes its files, builds its models,
measures the student and keeps the plan's results. `python benchmarks/plan_overhead.py [CELLS]`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch
from record import figure, write

from congruence.bench.plan import Plan
from congruence.bench.runner import run_plan

BAR = 0.15  # seconds a cell
TINY = (
    "stages.teacher.student={model='cnn3', options={width=4}}",
    "stages.teacher.train.max_steps=1",
    "stages.student.student={model='cnn3', options={width=4}}",
    "stages.student.train.max_steps=1",
    "data.train_size=100",
    "data.validation=20",
    "data.test=40",
)
METHODS = {"ce": "digits/ce", "kd": "digits/kd"}


def measured(cells: int) -> tuple[float, float]:
    """Return seconds a cell beyond its training: of a plan that trains them, and of a call that finds them done."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        run_plan(Plan("tiny", METHODS, (0,), TINY), out, workers=0)  # the teacher is there, and all is imported
        plan = Plan("tiny", METHODS, tuple(range(1, cells // len(METHODS) + 1)), TINY)
        start = time.perf_counter()
        results = run_plan(plan, out, workers=0)
        spent = time.perf_counter() - start
        if results.failed:
            raise RuntimeError(results.failed[0]["failed"])
        rows = results.rows
        start = time.perf_counter()
        run_plan(plan, out, workers=0)
        return (spent - sum(row["seconds"] for row in rows)) / len(rows), (time.perf_counter() - start) / len(rows)


def main() -> None:
    torch.set_num_threads(1)
    cells = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    trained, found = measured(cells)
    definition = f"seconds a cell of a plan of {cells}, each trained for one step: those of its training taken off"
    write("plan_overhead", definition, [figure("trained", trained, BAR), figure("found_done", found, BAR)])


if __name__ == "__main__":
    main()
