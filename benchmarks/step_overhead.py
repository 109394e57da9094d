"""What each method adds to a training step of resnet32x4 -> resnet8x4 at batch 64, 32x32.

python benchmarks/step_overhead.py [cpu|cuda]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from record import figure, write
from torch.nn import functional as F

import congruence as cg
from congruence.methods import keys, row

BATCH, CLASSES, BAR = 64, 100, 1.03
LATE = 50  # an epoch after all warm-ups
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


def loss_work(key: str, teacher: torch.nn.Module, student: torch.nn.Module, batch: tuple[torch.Tensor, ...]):
    """Return the forward and backward of one term, from the pair's taps to their gradient: all that it adds.

    An epoch of one batch comes first, so that what a method gathers over epochs is there. A queue that is not full
    costs no second forward here.
    """
    facts = cg.data.DataFacts(BATCH, CLASSES, batch[1].cpu())
    together = row(key).needs.students == "all"
    students = {"first": student, "second": copy.deepcopy(student)} if together else student
    distiller = cg.Distiller(teacher, students, [cg.Term(key)], example=batch[0][:2], facts=facts).to(batch[0].device)
    views = {view: batch[0] for view in row(key).needs.views if view != "main"}
    with torch.no_grad():
        captured = distiller.capture(*batch, views=views)
        distiller.begin_epoch(0)
        distiller.score(captured)
        distiller.end_epoch()
        distiller.begin_epoch(LATE)
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
    parser.add_argument("--rounds", type=int, default=9, help="interleaved pairs")
    arguments = parser.parse_args()
    device, rounds = arguments.device, arguments.rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    teacher = cg.models.build("resnet32x4", classes=CLASSES).to(device).eval().requires_grad_(False)
    student = cg.models.build("resnet8x4", classes=CLASSES).to(device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, 32, 32, generator=generator).to(device)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator).to(device)

    def step() -> None:
        with torch.no_grad():
            teacher(images)
        F.cross_entropy(student(images), labels).backward()

    known = [key for key in keys() if "maps" not in row(key).needs.roles]
    works = {
        key: loss_work(key, teacher, student, (images, labels, torch.arange(BATCH, device=device))) for key in known
    }
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
