"""Whole GPCL and mAP: beside torch's argsort of an argsort, on one and two threads, and of 50,000 samples.

python benchmarks/rankings.py [--only NAME] (memory is read from /proc: Linux)
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from record import figure, resident, write
from torch import Tensor

from congruence.metrics import global_perception_coherence, retrieval_map

SAMPLES, LARGE, WIDTH, CLASSES, PART, THREADS = 10_000, 50_000, 64, 100, 500, 2
LEAST = {1: 12.0, 2: 10.0}
SECONDS = {"GPCL": 25.0, "mAP": 10.0}
DEFINITION = (
    "argsort / ours: median of the ratios of pairs that take turns in one process, the distances included on both "
    f"sides; argsort: float32 cosines and argsort of argsort for {PART} anchors at a time, timed on {PART} anchors and "
    "multiplied; processor seconds with 1 thread, the clock with 2; seconds: the clock, of one call in a fresh process"
)


def samples(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """A student that is the teacher and noise, the teacher, and classes."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(rows, WIDTH, generator=generator)
    student = teacher + torch.randn(rows, WIDTH, generator=generator)
    return student, teacher, torch.randint(CLASSES, (rows,), generator=generator)


def plain(student: Tensor, teacher: Tensor, anchors: slice) -> Tensor:
    """The gaps of some anchors by torch alone, ties by chance."""
    sides = (F.normalize(student), F.normalize(teacher))
    ranks = [((1 - side[anchors] @ side.T) / 2).argsort(1).argsort(1) for side in sides]
    return (ranks[0] - ranks[1]).abs().sum(1)


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


def beside_argsort(threads: int, rounds: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    student, teacher, _ = samples(SAMPLES)
    clock = time.process_time if threads == 1 else time.perf_counter
    times: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        theirs = seconds(lambda: plain(student, teacher, slice(PART)), clock) * SAMPLES / PART
        times.append((theirs, seconds(lambda: global_perception_coherence(student, teacher), clock)))
    theirs, ours = (statistics.median(side) for side in zip(*times[1:], strict=True))  # the first round warms up
    ratio = statistics.median(theirs / ours for theirs, ours in times[1:])
    name = f"argsort / GPCL, N={SAMPLES}, {threads} thread{'s' * (threads > 1)}"
    return figure(name, ratio, least=LEAST[threads], seconds=round(ours, 2), argsort_seconds=round(theirs, 2))


def alone(name: str) -> None:
    """Print the seconds of one metric of 50,000 samples, and the megabytes that it adds to this process."""
    torch.set_num_threads(THREADS)
    student, teacher, labels = samples(LARGE)
    works = {
        "GPCL": lambda: global_perception_coherence(student, teacher),
        "mAP": lambda: retrieval_map(student, labels, teacher, labels),
    }
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmRSS")
    print(seconds(works[name], time.perf_counter), (resident("VmHWM") - before) / 1e6)


def of_many(name: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--only", name]
    taken, megabytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    words = f"seconds of {name}, N={LARGE}, {THREADS} threads"
    return figure(words, float(taken), SECONDS[name], megabytes=round(float(megabytes), 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="interleaved pairs")
    parser.add_argument("--only", choices=list(SECONDS), help="only print this one's seconds and megabytes")
    arguments = parser.parse_args()
    if arguments.only:
        alone(arguments.only)
        return
    if (os.cpu_count() or 1) < THREADS:
        sys.exit(f"These figures need {THREADS} cores.")
    figures = [beside_argsort(threads, arguments.rounds) for threads in LEAST] + [of_many(name) for name in SECONDS]
    write("rankings", DEFINITION, figures, width=WIDTH, classes=CLASSES, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
