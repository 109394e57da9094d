"""RKD's angle loss beside its usual form (a [B, B, D] tensor of unit differences and its Grams), forward and backward.

Also its two losses together in the batch of a usual recipe, 64 rows.

python benchmarks/rkd_angle.py (memory is read from /proc: Linux)
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from interleaved import medians
from record import figure, resident, write
from torch import Tensor

from congruence.losses import rkd_angle_loss, rkd_distance_loss

BATCH, WIDTH, LARGE, USUAL_BATCH, USUAL_WIDTH = 128, 512, 1024, 64, 128
GIGABYTES = 2.0
DEFINITION = (
    "ours / usual, medians of interleaved calls in one process; memory is the growth of a fresh process's peak, at "
    "B = 1024 as a share of 2 GB"
)
TIME, MEMORY, MEMORY_LARGE = f"time at B={BATCH}", f"memory at B={BATCH}", f"memory at B={LARGE}"
BOTH = f"time of distance and angle at B={USUAL_BATCH}, D={USUAL_WIDTH}"
BARS = {TIME: round(1 / 3, 4), MEMORY: 0.25, MEMORY_LARGE: 1.0}


def usual(student: Tensor, teacher: Tensor) -> Tensor:
    """The form of the common ports."""

    def cosines(x: Tensor) -> Tensor:
        units = F.normalize(x[None] - x[:, None], p=2, dim=2)
        return torch.bmm(units, units.transpose(1, 2)).view(-1)

    with torch.no_grad():
        wanted = cosines(teacher)
    return F.smooth_l1_loss(cosines(student), wanted)


def usual_both(student: Tensor, teacher: Tensor) -> Tensor:
    """The usual form of the weighted sum of both losses."""

    def relative(x: Tensor) -> Tensor:
        squares = x.square().sum(1)
        distances = (squares[:, None] + squares - 2 * x @ x.T).clamp(min=1e-12).sqrt()
        distances = distances * (1 - torch.eye(len(x)))
        return distances / distances[distances > 0].mean()

    with torch.no_grad():
        wanted = relative(teacher)
    return 25 * F.smooth_l1_loss(relative(student), wanted) + 50 * usual(student, teacher)


def both(student: Tensor, teacher: Tensor) -> Tensor:
    return 25 * rkd_distance_loss(student, teacher) + 50 * rkd_angle_loss(student, teacher)


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ours": rkd_angle_loss, "usual": usual}
BOTH_FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ours": both, "usual": usual_both}


def rows(batch: int, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(batch, width, generator=generator, requires_grad=True)
    return student, torch.randn(batch, width, generator=generator)


def step(form: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> None:
    student.grad = None
    form(student, teacher).backward()


def beside_usual(
    name: str, forms: dict[str, Callable[[Tensor, Tensor], Tensor]], inputs: tuple[Tensor, Tensor], rounds: int
) -> dict[str, Any]:
    """The figure of our form's time over the usual one's."""
    found = medians({key: partial(step, form, *inputs) for key, form in forms.items()}, rounds)
    milliseconds = round(1e3 * found["ours"], 2)
    return figure(name, found["ours"] / found["usual"], BARS.get(name), ours_milliseconds=milliseconds)


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
    memory = {name: grown(name, BATCH) for name in FORMS}
    large = grown("ours", LARGE)
    figures = [
        beside_usual(TIME, FORMS, rows(BATCH), arguments.rounds),
        beside_usual(BOTH, BOTH_FORMS, rows(USUAL_BATCH, USUAL_WIDTH), 10 * arguments.rounds),
        figure(MEMORY, memory["ours"] / memory["usual"], BARS[MEMORY], ours_gigabytes=round(memory["ours"], 4)),
        figure(MEMORY_LARGE, large / GIGABYTES, BARS[MEMORY_LARGE], ours_gigabytes=round(large, 4)),
    ]
    write("rkd_angle", DEFINITION, figures, batch=BATCH, width=WIDTH, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
