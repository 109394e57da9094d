"""Every row of the catalogue at its recipe's weights: an epoch on 10,000 images of CIFAR-10, and what is said.

python benchmarks/one_epoch.py [--out FOLDER] [METHOD ...]

The rows, pairs and teachers are those of plans/methods-cifar10.toml; teachers that are in FOLDER/teachers already are
taken from there. `warnings` of the result has what a row's run warned of, by Python or in the log: it should be empty.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import shutil
import time
import warnings
from pathlib import Path

from record import figure, write

from congruence.bench.cell import Job, run_cell, teach
from congruence.bench.planfile import load_plan
from congruence.core.files import read_lines
from congruence.training.record import LOPSIDED, norms_by_term
from congruence.training.saving.run_directory import RunDirectory

DEFINITION = (
    "the largest first gradient of a row's terms / the smallest (of those that have one); beyond the bar a run warns; "
    "cpu_seconds: the process's own, with loading and validation"
)
OUT = Path("runs/one-epoch")


class WarningLog(logging.Handler):
    """Keeps the warnings of the log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", help="run these alone, write nothing")
    parser.add_argument("--out", type=Path, default=OUT, help="a folder for runs and teachers (default: %(default)s)")
    arguments = parser.parse_args()
    plan = load_plan("methods-cifar10", seeds=(0,), overrides=("stages.student.train.epochs=1",))
    if unknown := set(arguments.methods) - set(plan.recipes):
        parser.error(f"no row of the plan: {', '.join(sorted(unknown))} (it has: {', '.join(plan.recipes)})")
    chosen = {key: plan.recipes[key] for key in arguments.methods or plan.recipes}
    plan = dataclasses.replace(plan, recipes=chosen, tune=None)
    shutil.rmtree(arguments.out / "cells", ignore_errors=True)  # each is run anew
    log, figures, warned = WarningLog(), [], {}
    logging.getLogger("congruence").addHandler(log)
    for cell in plan.cells():
        weights = None
        if cell.teacher:
            folder = arguments.out / "teachers" / cell.teacher_key()
            teach(cell, cell.teacher, folder)
            weights = RunDirectory(folder).student_file(cell.teacher.student)
        log.lines.clear()
        job = Job(cell, arguments.out / "cells" / cell.name, weights, trial=True)
        start = time.process_time()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run_cell(job)
        seconds = round(time.process_time() - start, 1)
        rows = read_lines(RunDirectory(job.folder).metrics)
        norms = norms_by_term(next(row["gradient_norms"] for row in rows if "gradient_norms" in row)).values()
        name = f"{cell.method}, {cell.variant}"
        figures.append(figure(name, max(norms) / min(norms), float(LOPSIDED), cpu_seconds=seconds))
        if sentences := [*log.lines, *(str(each.message) for each in caught)]:
            warned[name] = sentences
        print(figures[-1], *sentences, flush=True)
    if not arguments.methods:
        write("one_epoch", DEFINITION, figures, images=10_000, batch=64, warnings=warned)


if __name__ == "__main__":
    main()
