"""What each method costs beside cross-entropy: time and memory of a training step, resnet20 -> resnet8, 64 images.

python benchmarks/method_cost.py [METHOD ...]

Time is the process's own on one thread: on a machine with other work it varies less than the clock. Memory is what
torch allocated at most during the step, from its profiler: the same at every run, where the size of a process varies by
some megabytes and needs a fresh process a method. What SciPy and NumPy hold for a transport plan is not in it: matrices
of 64×64.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from pair import BATCH, CLASSES, KEYS, batch, bound, views_of
from record import figure, write
from torch.profiler import ProfilerActivity, profile

import congruence as cg

DEFINITION = (
    "CPU time of a step (forwards, the teacher's too where it is needed, loss, backward) / ce's, median of alternating "
    "pairs; extra_megabytes: torch's peak during the step less ce's; state_megabytes: the term's parameters and buffers"
)
TEACHER, STUDENT, SAMPLES, CE = "resnet20", "resnet8", 10_000, "ce"
STAGES = (1, 2, 3)
# (student's, teacher's) where the usual layers are not the published ones.
LAYERS: dict[str, tuple[list[str], list[str]]] = {
    "hkd": ([*(f"layer{k}" for k in STAGES), "input:fc"],) * 2,
    "ofd": ([f"input:layer{k}.0.relu" for k in STAGES], [f"input:layer{k}.2.relu" for k in STAGES]),
}
LAYERS["reviewkd"] = ([*LAYERS["ofd"][0], "input:fc"], [*LAYERS["ofd"][1], "input:fc"])


def stepper(key: str) -> tuple[Callable[[], None], int]:
    """Return a method's training step, and the bytes of the term itself."""
    torch.manual_seed(0)
    teacher = cg.models.build(TEACHER, classes=CLASSES)
    student = cg.models.build(STUDENT, classes=CLASSES)
    data = batch()
    named = dict(zip(("student_layer", "teacher_layer"), LAYERS.get(key, ()), strict=False))
    distiller, _ = bound(key, teacher, student, data, SAMPLES, **named)
    views = views_of(key, data[0])

    def step() -> None:
        distiller.zero_grad()
        loss = distiller(*data, views=views).loss
        if loss.requires_grad:
            loss.backward()

    return step, sum(t.nbytes for part in distiller.methods.values() for t in (*part.parameters(), *part.buffers()))


def seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def peak(work: Callable[[], None]) -> int:
    """Bytes that torch holds at most during a call, beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    results: Any = profiled.profiler.kineto_results  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    return max(accumulate(size for _, size in changes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", help="print these alone, write nothing")
    parser.add_argument("--rounds", type=int, default=3, help="alternating pairs")
    arguments = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler writes a line at each start and stop
    torch.set_num_threads(1)
    base, _ = stepper(CE)
    seconds(base)
    peak(base)  # the profiler's first run counts otherwise
    base_peak, base_times, figures = peak(base), [], []
    for key in arguments.methods or KEYS:
        step, state = stepper(key)
        seconds(step)  # the first call warms up
        pairs = [(seconds(step), seconds(base)) for _ in range(arguments.rounds)]
        base_times += [other for _, other in pairs]
        figures.append(
            figure(
                key,
                statistics.median(mine / other for mine, other in pairs),
                milliseconds=round(1e3 * statistics.median(mine for mine, _ in pairs), 1),
                extra_megabytes=round((peak(step) - base_peak) / 1e6, 2),
                state_megabytes=round(state / 1e6, 3),
            )
        )
        if arguments.methods:
            print(figures[-1])
    if arguments.methods:
        return
    facts = {"teacher": TEACHER, "student": STUDENT, "batch": BATCH, "image": [3, 32, 32], "classes": CLASSES}
    write(
        "method_cost",
        DEFINITION,
        figures,
        pair={**facts, "samples": SAMPLES},
        ce_milliseconds=round(1e3 * statistics.median(base_times), 1),
        ce_megabytes=round(base_peak / 1e6, 2),
        rounds=arguments.rounds,
    )


if __name__ == "__main__":
    main()
