"""What `fit` costs beside a loop by hand in the same arithmetic, with a cached teacher and with a live one.

python benchmarks/cached_epoch.py
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from pair import pictures
from record import figure, write
from torch import nn
from torch.nn import functional as F

import congruence as cg
from congruence.core.allocator import memory_kept
from congruence.models.memory_order import ordered, prefers_channels_last
from congruence.models.teacher import Teacher

IMAGES, CLASSES, BATCH, VIEWS = 640, 10, 64, 2
TERMS = {
    "kd": ["ce", "kd"],
    "pkt": ["ce", "pkt"],
    "cckd": ["ce", "kd", "cckd"],
    "perception_coherence": ["ce", "perception_coherence"],
}
CACHED_BARS, LIVE_BAR = {"resnet8": 1.08, "cnn3": 1.15}, 1.02
DEFINITION = (
    "median over rounds of the ratio of the median steps of epochs that take turns, processor times on one thread; "
    "cached: `fit` with the method and a cached teacher / a loop by hand that trains the student on labels; live: "
    "`fit` with ce and kd / a loop by hand of the same models, losses and arithmetic"
)
Steps = Callable[[], list[float]]


class Clock:
    """Notes the processor time between steps."""

    def __init__(self) -> None:
        self.last = time.process_time()
        self.times: list[float] = []

    def step(self) -> None:
        now = time.process_time()
        self.times.append(now - self.last)
        self.last = now

    def __call__(self, event: cg.Event) -> None:
        if event.kind == "step":
            self.step()


def student(name: str) -> nn.Module:
    """Make a student, always the same."""
    torch.manual_seed(0)
    return cg.models.build(name, classes=CLASSES)


def by_hand(name: str, batches: cg.data.Loader, teacher: Teacher | None) -> Steps:
    """Return an epoch of a plain loop, with a prepared teacher or on labels alone."""
    model = ordered(student(name), last=prefers_channels_last(student(name), torch.device("cpu"))).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True)

    @memory_kept()
    def epoch() -> list[float]:
        clock = Clock()
        for images, labels, _ in batches.batches(0):
            optimizer.zero_grad()
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
            if teacher is not None:
                loss = loss + cg.losses.distillation_loss(logits, teacher.read(images)[1]["fc"])
            loss.backward()
            optimizer.step()
            clock.step()
        return clock.times

    return epoch


def by_fit(name: str, terms: list[str], teacher: nn.Module | cg.TeacherCache, batches: cg.data.Loader) -> Steps:
    """Return an epoch of `fit` as it is by default."""

    def epoch() -> list[float]:
        distiller = cg.Distiller(teacher, student(name), terms, example=batches.dataset.batch([0, 1]))
        clock = Clock()
        cg.fit(distiller, batches, options=cg.FitOptions(epochs=1, device="cpu", callbacks=(clock,)))
        return clock.times[1:]  # the first has what comes before it

    return epoch


def ratios(epochs: dict[str, Steps], base: Steps, rounds: int) -> dict[str, float]:
    """Return how much longer each takes than the base, which takes its turn once a round."""
    found: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(rounds + 1):
        medians = {name: statistics.median(steps()) for name, steps in epochs.items()}
        plain = statistics.median(base())
        if number:  # the first round makes the cache and warms up
            for name, median in medians.items():
                found[name].append(median / plain)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    batches = pictures(IMAGES, batch=BATCH, views=VIEWS)
    network = cg.models.build("resnet20", classes=CLASSES)
    prepared = Teacher(network)
    prepared.taps.probe(batches.dataset.batch([0, 1]), training=False)
    prepared.taps.require(["fc"])
    prepared.prepare()
    figures = []
    for name, bar in CACHED_BARS.items():
        live = ratios({"kd": by_fit(name, TERMS["kd"], network, batches)}, by_hand(name, batches, prepared), rounds)
        figures.append(figure(f"{name}: live, kd", live["kd"], LIVE_BAR))
        with tempfile.TemporaryDirectory() as folder:
            cache = cg.TeacherCache(network, batches, folder)
            epochs = {method: by_fit(name, terms, cache, batches) for method, terms in TERMS.items()}
            cached = ratios(epochs, by_hand(name, batches, None), rounds)
            figures += [figure(f"{name}: cached, {method}", value, bar) for method, value in cached.items()]
    setting = {
        "images": IMAGES,
        "batch": BATCH,
        "views": VIEWS,
        "teacher": "resnet20",
        "arithmetic": prepared.arithmetic,
    }
    write("cached_epoch", DEFINITION, figures, setting=setting, rounds=rounds)


if __name__ == "__main__":
    main()
