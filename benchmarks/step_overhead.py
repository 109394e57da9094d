"""What each method adds to a training step of resnet32x4 -> resnet8x4 at batch 64, 32x32.

python benchmarks/step_overhead.py [cpu|cuda]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from pair import BATCH, CLASSES, KEYS, Data, batch, bound, captured_once
from record import figure, write
from torch.nn import functional as F

import congruence as cg
from congruence.distiller.captured import Captured
from congruence.methods import row
from congruence.methods.catalogue import ROWS

BAR = 1.03
DEFINITION = "1 + median(loss forward + backward) / median(teacher forward + student forward and backward)"


def seconds(work: Callable[[], None], device: str) -> float:
    """Time one call, to its end on the device."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def loss_work(
    key: str, teacher: torch.nn.Module, student: torch.nn.Module, data: Data, captured: Captured | None
) -> Callable[[], None]:
    """Return the forward and backward of one term, from the pair's taps to their gradient: all that it adds."""
    distiller, captured = bound(key, teacher, student, data, BATCH, captured=captured)
    leaves = {name: tensor.detach().requires_grad_(name[0] != "teacher") for name, tensor in captured.tensors.items()}
    captured = replace(captured, tensors=leaves)

    def work() -> None:
        loss = distiller.score(captured).loss
        if loss.requires_grad:
            loss.backward()

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", nargs="?", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=4, help="interleaved pairs")
    arguments = parser.parse_args()
    device, rounds = arguments.device, arguments.rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    teacher = cg.models.build("resnet32x4", classes=CLASSES).to(device).eval().requires_grad_(False)
    student = cg.models.build("resnet8x4", classes=CLASSES).to(device)
    data = batch(device)
    images, labels, _ = data

    def step() -> None:
        with torch.no_grad():
            teacher(images)
        F.cross_entropy(student(images), labels).backward()

    keys = [row.key for row in ROWS if row.key in KEYS and ("maps" not in row.needs.roles or row.needs.unnamed)]
    alone = [key for key in keys if row(key).needs.students != "all"]  # the others have students of their own
    captured = captured_once(alone, teacher, student, data)
    works = {key: loss_work(key, teacher, student, data, captured if key in alone else None) for key in keys}
    steps: list[float] = []
    losses: dict[str, list[float]] = {key: [] for key in works}
    student.train()
    for number in range(rounds + 1):
        elapsed = seconds(step, device)
        each = {key: [seconds(work, device) for _ in range(5)] for key, work in works.items()}
        if number:  # the first round warms up
            steps.append(elapsed)
            for key, values in each.items():
                losses[key].append(statistics.median(values))
    base = statistics.median(steps)
    medians = {key: statistics.median(values) for key, values in losses.items()}
    figures = [
        figure(key, 1 + value / base, BAR, loss_milliseconds=round(1e3 * value, 3)) for key, value in medians.items()
    ]
    pair = {"teacher": "resnet32x4", "student": "resnet8x4", "batch": BATCH, "image": [3, 32, 32], "classes": CLASSES}
    write(
        "step_overhead", DEFINITION, figures, device, pair=pair, step_milliseconds=round(1e3 * base, 2), rounds=rounds
    )


if __name__ == "__main__":
    main()
