"""What a step with balanced weights costs beside one with fixed weights.

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
from congruence.distiller.balance import SELDOM, is_due

IMAGES, CLASSES, BATCH, VIEWS, BAR = 4_000, 10, 64, 2, 1.02
TERMS = {"kd": ["kd"], "pkt": ["pkt"], "kd and rkd": ["kd", "rkd"]}
DEFINITION = (
    "(99 · plain + measuring) / 100 steps with balanced weights / a step with published ones: medians of the processor "
    "time of steps, in runs that take turns, on one thread; the teacher a resnet20"
)


def steps(student: str, keys: Sequence[str], weight: str, teacher: nn.Module | cg.TeacherCache, data: cg.data.Loader):
    """Return the times of the steps of two epochs of `fit`, by their numbers."""
    torch.manual_seed(0)
    terms = [cg.Term("ce"), *(cg.Term(key, weight=weight) for key in keys)]
    model = cg.models.build(student, classes=CLASSES)
    distiller = cg.Distiller(teacher, model, terms, example=data.dataset.batch([0, 1]))
    marks: dict[int, float] = {}

    def clock(event: cg.Event) -> None:
        if event.kind == "step":
            marks[event.step] = time.process_time()

    quiet = cg.FitOptions(epochs=2, device="cpu", callbacks=(clock,), gradient_norms=False)
    cg.fit(distiller, data, options=quiet)
    # Without the first steps of an epoch, which warm up or read the images anew.
    return {step: time - marks[step - 1] for step, time in marks.items() if step - 1 in marks and step % len(data) > 3}


def cost(student: str, keys: Sequence[str], teacher: nn.Module | cg.TeacherCache, data: cg.data.Loader, rounds: int):
    """Return what a step costs in the mean, and a measuring one alone."""
    published: list[float] = []
    plain: list[float] = []
    measuring: list[float] = []
    for _ in range(rounds):
        published += steps(student, keys, "published", teacher, data).values()
        for number, time_of in steps(student, keys, "balanced", teacher, data).items():
            (measuring if is_due(number - 1) else plain).append(time_of)
    one, few, most = (statistics.median(times) for times in (published, measuring, plain))
    return ((SELDOM - 1) * most + few) / SELDOM / one, few / one


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
                    steps(student, keys, "published", teacher, data)  # fills the cache, and warms up
                    ratio, alone = cost(student, keys, teacher, data, rounds)
                    figures.append(figure(f"{student}: {how}, {name}", ratio, BAR, measuring_step=round(alone, 2)))
    setting = {"images": IMAGES, "batch": BATCH, "views": VIEWS, "teacher": "resnet20"}
    write("balanced_weights", DEFINITION, figures, setting=setting, rounds=rounds)


if __name__ == "__main__":
    main()
