"""What `congruence evaluate` costs beside the forward passes that it cannot do without.

python benchmarks/evaluate.py [--train 45000] [--test 10000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from pair import pictures
from record import figure, write
from torch import nn

import congruence as cg
from congruence.evaluation.embed import embed
from congruence.evaluation.kept import KeptRows
from congruence.evaluation.measure import measure_seen, run_numbers, see

CLASSES = 10
DEFINITION = (
    "processor time of all numbers of a student and of its teacher (a resnet20), as the command measures them / of one "
    "forward pass of both over the same images, the training images included; on one thread"
)


def evaluated(student: nn.Module, teacher: nn.Module, splits: cg.data.Splits, kept: KeptRows) -> float:
    """The processor seconds of what the command does with two models and data that are at hand."""
    start, numbers = time.process_time(), run_numbers()
    taught = see(teacher, splits, numbers, name="teacher", kept=kept)
    measure_seen(see(student, splits, numbers), numbers, teacher=taught.as_teacher(splits))
    measure_seen(taught, numbers)
    return time.process_time() - start


def passes(*models: nn.Module, splits: cg.data.Splits) -> float:
    """The processor seconds of embedding every image once with each model."""
    start = time.process_time()
    for model in models:
        for part in (splits.test, splits.train):
            embed(model, cg.data.loader(part, batch_size=50, shuffle=False))
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=45_000)
    parser.add_argument("--test", type=int, default=10_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train, test = (pictures(count, batch=50, views=1).dataset for count in (arguments.train, arguments.test))
    splits = cg.data.Splits(train, test.subset(torch.arange(10)), test)
    teacher = cg.models.build("resnet20", classes=CLASSES).eval()
    figures = []
    for name in ("resnet8", "cnn3"):
        student = cg.models.build(name, classes=CLASSES).eval()
        with tempfile.TemporaryDirectory() as folder:
            kept = KeptRows(Path(folder))
            plain = passes(student, teacher, splits=splits)
            first = evaluated(student, teacher, splits, kept)
            again = evaluated(student, teacher, splits, kept)
        beside = {"forward_seconds": round(plain, 2)}
        figures.append(figure(f"{name}: the first time", first / plain, seconds=round(first, 2), **beside))
        figures.append(
            figure(f"{name}: with the teacher's rows kept", again / plain, seconds=round(again, 2), **beside)
        )
    write("evaluate", DEFINITION, figures, setting={"train": arguments.train, "test": arguments.test})


if __name__ == "__main__":
    main()
