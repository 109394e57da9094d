"""How long a first try on little data should be: cross-entropy, `kd` and `dist`, by the settings of `distill`.

`python benchmarks/course.py`: 2,000 images of CIFAR-10 and the kept ResNet-20; judged on 5,000 validation images, the
test images are not read. The teacher's answers are kept for some views of each image ("8 views"), which cross-entropy
alone is shown too, or it is asked about a new view in every epoch ("live"). It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from lines import completed, gained
from record import ROOT, figure, write

import congruence as cg
from congruence.bench.against import CERTAIN
from congruence.pipeline import quick

IMAGES, BATCH = 2000, 64
ROWS = ("ce", "kd", "dist")
# By epochs (1,024 and 3,200 steps) and views; a live teacher takes 80 % of a hundred epochs.
CELLS = {(32, 8): ROWS, (100, 8): ROWS, (100, 25): ROWS, (32, None): ROWS, (100, None): ("ce", "kd")}
TEACHER = ROOT / "results" / "teachers" / "cifar10-resnet20.safetensors"
DEFINITION = (
    "accuracy (%) on 5,000 validation images after the last epoch, mean over seeds, of cnn3 from 2,000 images of "
    "CIFAR-10; gain: of a row, balanced, over cross-entropy alone, mean over the same seeds, with the ends of its "
    f"{100 * CERTAIN:.0f} % interval by Student's t"
)


def trained(row: str, epochs: int, views: int | None, seed: int, folder: Path) -> dict[str, Any]:
    """Train a student as `congruence.distill` does, and return its line."""
    about = json.loads(TEACHER.with_suffix(".json").read_text(encoding="utf8"))
    splits = cg.data.load("cifar10", train_size=IMAGES, mean=about["mean"], std=about["std"])
    teacher = cg.models.build("resnet20", classes=10)
    teacher.load_state_dict(cg.models.load_weights(TEACHER))
    torch.manual_seed(seed)
    student = cg.models.build("cnn3", classes=10)
    terms = [cg.Term("ce"), *([] if row == "ce" else [cg.Term(row, weight="balanced")])]
    batches: dict[str, Any] = {"batch_size": BATCH, "augment": True, "view_cycle": views, "view_seed": 0}
    source: Any = None if row == "ce" else teacher
    if row != "ce" and views is not None:
        source = cg.TeacherCache(teacher, cg.data.loader(splits.train, **batches), folder / f"{row}-{views}")
    distiller = cg.Distiller(
        source, student, terms, example=splits.train.batch([0, 1]), facts=cg.data.facts(splits.train)
    )
    options = quick.fit_options(
        epochs=epochs,
        seed=seed,
        device="cpu",
        gradient_norms=False,
    )
    validation = cg.data.loader(splits.validation, batch_size=250, shuffle=False)
    result = cg.fit(distiller, cg.data.loader(splits.train, seed=seed, **batches), validation, options)
    return {"row": row, "epochs": epochs, "views": views, "seed": seed, "last": 100 * result.last["accuracy"]}


def figures(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the lines together."""
    found = []
    for (epochs, views), rows in CELLS.items():
        of = {(e["row"], e["seed"]): e["last"] for e in lines if (e["epochs"], e["views"]) == (epochs, views)}
        name = f"{epochs} epochs, {'live' if views is None else f'{views} views'}"
        for row in rows:
            seeds = [seed for other, seed in of if other == row and ("ce", seed) in of]
            if not seeds:
                continue
            more: dict[str, float] = {"seeds": len(seeds)}
            if row != "ce" and len(seeds) > 1:
                more |= gained([of[row, seed] - of["ce", seed] for seed in seeds])
            found.append(figure(f"{name}: {row}", statistics.mean(of[row, seed] for seed in seeds), **more))
    return found


def main() -> None:
    """Train what is not there yet, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/course.jsonl"))
    told = parser.parse_args()
    torch.set_num_threads(1)
    cells = [
        {"row": row, "epochs": epochs, "views": views, "seed": seed}
        for seed in told.seeds
        for (epochs, views), rows in CELLS.items()
        for row in rows
    ]
    with tempfile.TemporaryDirectory() as folder:
        lines = completed(told.out, cells, functools.partial(trained, folder=Path(folder)))
    write("course", DEFINITION, figures(lines), lines=lines)


if __name__ == "__main__":
    main()
