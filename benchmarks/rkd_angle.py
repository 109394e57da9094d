"""RKD's angle loss beside its usual form (a [B, B, D] tensor of unit differences and its Grams), forward and backward.

python benchmarks/rkd_angle.py (memory is read from /proc: Linux)
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from record import figure, resident, write
from torch import Tensor

from congruence.losses import rkd_angle_loss

BATCH, WIDTH, LARGE = 128, 512, 1024
GIGABYTES = 2.0
DEFINITION = (
    "ours / usual, medians of interleaved calls in one process; memory is the growth of a fresh process's peak, at "
    "B = 1024 as a share of 2 GB"
)
TIME, MEMORY, MEMORY_LARGE = f"time at B={BATCH}", f"memory at B={BATCH}", f"memory at B={LARGE}"
BARS = {TIME: round(1 / 3, 4), MEMORY: 0.25, MEMORY_LARGE: 1.0}


def usual(student: Tensor, teacher: Tensor) -> Tensor:
    """The form of the common ports."""

    def cosines(x: Tensor) -> Tensor:
        units = F.normalize(x[None] - x[:, None], p=2, dim=2)
        return torch.bmm(units, units.transpose(1, 2)).view(-1)

    with torch.no_grad():
        wanted = cosines(teacher)
    return F.smooth_l1_loss(cosines(student), wanted)


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ours": rkd_angle_loss, "usual": usual}


def rows(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(batch, WIDTH, generator=generator, requires_grad=True)
    return student, torch.randn(batch, WIDTH, generator=generator)


def seconds(form: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> float:
    student.grad = None
    start = time.perf_counter()
    form(student, teacher).backward()
    return time.perf_counter() - start


def grown(name: str, batch: int) -> float:
    """By how many gigabytes one forward and backward grows a fresh process."""
    command = [sys.executable, __file__, "--form", name, "--batch", str(batch)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--form", choices=list(FORMS), help="only print the memory that this one takes, in gigabytes")
    parser.add_argument("--batch", type=int, default=BATCH)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.form:
        form = FORMS[arguments.form]
        form(*rows(8)).backward()  # what a first call allocates once
        inputs = rows(arguments.batch)
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = resident("VmRSS")
        form(*inputs).backward()
        print((resident("VmHWM") - before) / 1e9)
        return
    inputs = rows(BATCH)
    times: dict[str, list[float]] = {name: [] for name in FORMS}
    for number in range(arguments.rounds + 1):
        for name, form in FORMS.items():
            elapsed = seconds(form, *inputs)
            if number:  # the first round warms up
                times[name].append(elapsed)
    medians = {name: statistics.median(values) for name, values in times.items()}
    memory = {name: grown(name, BATCH) for name in FORMS}
    large = grown("ours", LARGE)
    figures = [
        figure(TIME, medians["ours"] / medians["usual"], BARS[TIME], ours_milliseconds=round(1e3 * medians["ours"], 2)),
        figure(MEMORY, memory["ours"] / memory["usual"], BARS[MEMORY], ours_gigabytes=round(memory["ours"], 4)),
        figure(MEMORY_LARGE, large / GIGABYTES, BARS[MEMORY_LARGE], ours_gigabytes=round(large, 4)),
    ]
    write("rkd_angle", DEFINITION, figures, batch=BATCH, width=WIDTH, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
