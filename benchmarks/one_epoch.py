"""Every row of the catalogue at its recipe's weights: an epoch on 10,000 images of CIFAR-10, and what is said.

python benchmarks/one_epoch.py [--out FOLDER] [METHOD ...]

The rows are those of plans/methods-cifar10.toml, and for others the recipes on the digits with the images changed; the
student is cnn3, where the method can teach it, and the teacher that of `evidence-2`. `warnings` of the result has what
a row's run warned of, by Python or in the log: it should be empty.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import time
import warnings
from pathlib import Path

from record import ROOT, figure, write

from congruence.bench.cell import Job, run_cell, teach
from congruence.bench.plan import Plan
from congruence.bench.planfile import load_plan
from congruence.core.files import read_lines
from congruence.methods.catalogue import ROWS
from congruence.training.record import LOPSIDED, norms_by_term
from congruence.training.saving.run_directory import RunDirectory

DEFINITION = (
    "the largest first gradient of a row's terms / the smallest (of those that have one); beyond the bar a run warns; "
    "cpu_seconds: the process's own, with loading and validation"
)
OUT = Path("runs/one-epoch")
# Half of the labels at least, as rows blind to classes warn of fewer.
SETTINGS = (
    "data.name='cifar10'",
    "data.train_size=10000",
    "stages.student.labels_per_class=600",
    "stages.student.train.epochs=1",
    "stages.student.train.precision='bf16'",
)
WITH_OWN_TEACHER = ("intra_class", "inter_class")
OWN = {
    "hkd": ("stages.classifier.train.epochs=1", "stages.auxiliary.train.epochs=1"),
    **dict.fromkeys(WITH_OWN_TEACHER, ("stages.teacher.train.epochs=1",)),
    # At full weight from the start.
    "reviewkd": ("stages.student.terms.1.start_epoch=0", "stages.student.terms.1.warmup_epochs=0"),
    **dict.fromkeys(("dkd", "rld", "sdd"), ("stages.student.terms.1.warmup_epochs=0",)),
    "kda": ("stages.student.terms.1.warmup=0",),
    # The last stage alone: of 32 × 32 positions, relations take a minute a batch.
    "minilm": (
        "stages.student.terms.1.student_layer=['conv3', 'bn3', 'relu3']",
        "stages.student.terms.1.teacher_layer=['layer3.0', 'layer3.1', 'layer3.2']",
    ),
}


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
    known = load_plan("methods-cifar10")
    recipes = {row.key: known.recipes.get(row.key, f"digits/{row.key}") for row in ROWS}
    if unknown := set(arguments.methods) - set(recipes):
        parser.error(f"no row of the catalogue: {', '.join(sorted(unknown))} (it has: {', '.join(recipes)})")
    plan = Plan(
        "one-epoch",
        {key: recipes[key] for key in arguments.methods or recipes},
        (0,),
        overrides=SETTINGS,
        own={key: (*known.own.get(key, ()), *known.own.get(f"{key}-cnn3", ()), *OWN.get(key, ())) for key in recipes},
        teacher="cifar10-resnet20",
        teachers=dict.fromkeys(WITH_OWN_TEACHER, ""),
        results=ROOT / "results",
    )
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
        figures.append(figure(cell.method, max(norms) / min(norms), float(LOPSIDED), cpu_seconds=seconds))
        if sentences := [*log.lines, *(str(each.message) for each in caught)]:
            warned[cell.method] = sentences
        print(figures[-1], *sentences, flush=True)
    if not arguments.methods:
        write("one_epoch", DEFINITION, figures, images=10_000, batch=64, warnings=warned)


if __name__ == "__main__":
    main()
