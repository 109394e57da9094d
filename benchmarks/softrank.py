"""What the soft rank costs beside its defining formula, forward and backward, and how much memory a large batch takes.

python benchmarks/softrank.py (memory is read from /proc: Linux)
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from record import figure, resident, write
from torch import Tensor

from congruence.geometry import soft_rank
from congruence.losses import perception_coherence_loss

LARGE, WIDTH = 4096, 128
DEFINITION = (
    "median(ours) / median(formula), processor seconds of one thread, interleaved calls of forward and backward in one "
    "process: dissimilarities drawn uniformly from [0, 1]; memory: the growth of a fresh process's peak by the "
    "perception coherence loss of a batch and its gradient, in bytes"
)
MEMORY = f"memory at B={LARGE}"
PAIRS = [
    (method, batch, temperature)
    for method, batch in (("auto", 64), ("fast", 256), ("fast", 512))
    for temperature in (0.1, 0.3)
]
BARS = {64: 1.05, 256: 0.05, 512: 0.0167}


def passed(d: Tensor, weights: Tensor, temperature: float, method: Any) -> tuple[Tensor, Tensor, float]:
    """Ranks, the gradient of their weighted sum, and processor seconds."""
    start = time.process_time()
    ranks = soft_rank(d, temperature, method=method)
    (gradient,) = torch.autograd.grad(ranks, d, weights)
    return ranks.detach(), gradient, time.process_time() - start


def off(ours: Tensor, theirs: Tensor) -> float:
    return float(f"{((ours - theirs).norm() / theirs.norm()).item():.2e}")


def pair(method: str, batch: int, temperature: float, rounds: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    d = torch.rand(batch, batch, generator=generator).requires_grad_()
    weights = torch.randn(batch, batch, generator=generator)
    times: dict[str, list[float]] = {method: [], "exact": []}
    # A small batch is over sooner than the clock is sure of, and its noise needs more pairs.
    calls, pairs = (32, 8 * rounds) if batch < 256 else (1, rounds)
    for number in range(pairs + 1):
        for chosen in (method, "exact") if number % 2 else ("exact", method):
            elapsed = sum(passed(d, weights, temperature, chosen)[2] for _ in range(calls)) / calls
            if number:  # the first round warms up
                times[chosen].append(elapsed)
    ours, theirs = (passed(d, weights, temperature, chosen) for chosen in (method, "exact"))
    errors = {"ranks_off": off(ours[0], theirs[0]), "gradient_off": off(ours[1], theirs[1])}
    fast, slow = (1e3 * statistics.median(values) for values in times.values())
    return figure(
        f"{method}, B={batch}, temperature {temperature}",
        fast / slow,
        BARS[batch],
        milliseconds=round(fast, 3),
        formula_milliseconds=round(slow, 3),
        **errors,
    )


def grow(dissimilarity: str) -> None:
    """Print by how many bytes one forward and backward grows this process."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(LARGE, WIDTH, generator=generator, requires_grad=True)
    teacher = torch.randn(LARGE, WIDTH, generator=generator)
    options: dict[str, Any] = {"dissimilarity": dissimilarity, "method": "fast"}
    perception_coherence_loss(student[:8], teacher[:8], **options).backward()  # what a first call allocates once
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, start = resident("VmRSS"), time.process_time()
    perception_coherence_loss(student, teacher, **options).backward()
    print(resident("VmHWM") - before, time.process_time() - start)


def memory(dissimilarity: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--grow", dissimilarity]
    grown, seconds = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return figure(f"{MEMORY}, {dissimilarity}", float(grown), 2e9, seconds=round(float(seconds), 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved pairs")
    parser.add_argument(
        "--grow", choices=["cosine", "euclidean"], help="only print the memory of this one, and seconds"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.grow:
        grow(arguments.grow)
        return
    figures = [pair(*of, arguments.rounds) for of in PAIRS] + [memory(name) for name in ("cosine", "euclidean")]
    write("softrank", DEFINITION, figures, batch_of_memory=LARGE, width=WIDTH, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
