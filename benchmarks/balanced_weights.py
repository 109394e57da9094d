"""What a step with balanced weights costs beside one with fixed weights.

python benchmarks/balanced_weights.py
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from interleaved import medians
from pair import pictures
from record import figure, write
from torch import nn

import congruence as cg
from congruence.distiller.balance import SELDOM, SOMETIMES

IMAGES, CLASSES, BATCH, BAR = 512, 10, 64, 1.02
TERMS = {"kd": ["kd"], "pkt": ["pkt"], "kd and rkd": ["kd", "rkd"]}
DEFINITION = (
    f"({SELDOM - 1} · plain + measuring) / {SELDOM} steps with balanced weights / a step with published ones, as they "
    "are from the 64th step on: medians over rounds of the processor time of training steps that take turns, on one "
    "thread; the teacher a resnet20"
)


def cost(
    student: str, keys: Sequence[str], teacher: nn.Module | cg.TeacherCache, data: cg.data.Loader, rounds: int
) -> tuple[float, float]:
    """Return what a step costs in the mean, and a measuring one alone.

    All steps are of the same models and optimizer: others lie elsewhere in memory, which is worth some per cent.
    """
    torch.manual_seed(0)
    model = cg.models.build(student, classes=CLASSES).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    images, labels, index = next(iter(data.batches(0)))

    def made(weight: str, of: Any) -> cg.Distiller:
        terms = [cg.Term("ce"), *(cg.Term(key, weight=weight) for key in keys)]
        distiller = cg.Distiller(of, model, terms, example=data.dataset.batch([0, 1]))
        distiller.begin_epoch(0)
        return distiller

    fixed = made("published", teacher)
    if fixed.teacher is not None:
        fixed.teacher.prepare()
    balanced = made("balanced", fixed.cache or fixed.teacher)
    steps = balanced.balance._steps

    def step(distiller: cg.Distiller, number: int) -> None:
        steps.update(dict.fromkeys(steps, number))
        distiller(images, labels, index).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    calls = {
        "published": lambda: step(fixed, 0),
        "plain": lambda: step(balanced, SOMETIMES + 1),
        "measuring": lambda: step(balanced, SELDOM * SOMETIMES),
    }
    of = medians(calls, rounds)
    return ((SELDOM - 1) * of["plain"] + of["measuring"]) / SELDOM / of["published"], of["measuring"] / of["published"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    data = pictures(IMAGES, batch=BATCH, views=1)
    network = cg.models.build("resnet20", classes=CLASSES)
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        cache = cg.TeacherCache(network, data, folder)
        # One epoch fills it.
        keys = sorted({key for each in TERMS.values() for key in each})
        filler = cg.Distiller(
            cache, cg.models.build("cnn3", classes=CLASSES), ["ce", *keys], example=data.dataset.batch([0, 1])
        )
        cg.fit(filler, data, options=cg.FitOptions(epochs=1, device="cpu", gradient_norms=False))
        for student in ("resnet8", "cnn3"):
            for how, teacher in (("live", network), ("cached", cache)):
                for name, named in TERMS.items():
                    ratio, alone = cost(student, named, teacher, data, rounds)
                    figures.append(figure(f"{student}: {how}, {name}", ratio, BAR, measuring_step=round(alone, 2)))
    write("balanced_weights", DEFINITION, figures, setting={"batch": BATCH, "teacher": "resnet20"}, rounds=rounds)


if __name__ == "__main__":
    main()
