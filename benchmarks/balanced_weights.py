"""What an epoch with balanced weights costs beside one with fixed weights.

python benchmarks/balanced_weights.py
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence

import torch
from pair import pictures
from record import figure, write
from torch import nn

import congruence as cg

IMAGES, CLASSES, BATCH, VIEWS, BAR = 10_000, 10, 64, 2, 1.02
TERMS = {"kd": ["kd"], "pkt": ["pkt"], "kd and rkd": ["kd", "rkd"]}
DEFINITION = (
    "median over rounds of the processor time of the second epoch's steps with balanced weights / with published ones, "
    "in runs that take turns, on one thread; the teacher a resnet20"
)


def epoch(student: str, keys: Sequence[str], weight: str, teacher: nn.Module | cg.TeacherCache, data: cg.data.Loader):
    """Return the time of the second epoch of `fit`."""
    torch.manual_seed(0)
    terms = [cg.Term("ce"), *(cg.Term(key, weight=weight) for key in keys)]
    model = cg.models.build(student, classes=CLASSES)
    distiller = cg.Distiller(teacher, model, terms, example=data.dataset.batch([0, 1]))
    marks: list[float] = []

    def clock(event: cg.Event) -> None:
        if event.kind == "step" and event.step >= len(data):
            marks.append(time.process_time())

    quiet = cg.FitOptions(epochs=2, device="cpu", callbacks=(clock,), gradient_norms=False)
    cg.fit(distiller, data, options=quiet)
    return marks[-1] - marks[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    data = pictures(IMAGES, batch=BATCH, views=VIEWS)
    network = cg.models.build("resnet20", classes=CLASSES)
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        cache = cg.TeacherCache(network, data, folder)
        for student in ("resnet8", "cnn3"):
            for how, teacher in (("live", network), ("cached", cache)):
                for name, keys in TERMS.items():
                    epoch(student, keys, "published", teacher, data)  # fills the cache, and warms up
                    ratios = [
                        epoch(student, keys, "balanced", teacher, data)
                        / epoch(student, keys, "published", teacher, data)
                        for _ in range(rounds)
                    ]
                    figures.append(figure(f"{student}: {how}, {name}", statistics.median(ratios), BAR))
    setting = {"images": IMAGES, "batch": BATCH, "views": VIEWS, "teacher": "resnet20"}
    write("balanced_weights", DEFINITION, figures, setting=setting, rounds=rounds)


if __name__ == "__main__":
    main()
