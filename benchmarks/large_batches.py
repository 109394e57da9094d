"""Losses of pairs on batches of up to 16,384 samples: peak memory and seconds, each case in a process of its own.

python benchmarks/large_batches.py (the peak is getrusage's; `--case pkt --batch 65536 --device cuda` prints one case)
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from record import figure, write
from torch import Tensor

import congruence as cg
from congruence.geometry import tiles
from congruence.losses import (
    correlation_congruence_loss,
    perception_coherence_loss,
    pkt_loss,
    rkd_distance_loss,
)

PLAIN, LARGE, WIDTH, CHUNK = 4096, 16384, 64, 512
DEFINITION = (
    f"by how many gigabytes the peak of a fresh process grows in one forward and backward of rows of width {WIDTH} in "
    f"float32, with its seconds of one core; for B = {LARGE} also their growth over that of B² from B = {PLAIN}. The "
    f"plain form is what batches of up to {tiles.LARGE} take; a float64 [B, B] is 0.13 GB at {PLAIN} and 2.15 GB at "
    f"{LARGE}. 'step' is a whole step of a cnn3 with micro_batch={CHUNK}"
)
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pkt": pkt_loss,
    "cckd": correlation_congruence_loss,
    "rkd-distance": rkd_distance_loss,
    "perception-coherence": perception_coherence_loss,
}
STEP = {"pkt": "pkt", "cckd": "cckd"}  # a term's key by the name of a case that takes a whole step


def peak() -> float:
    """The most gigabytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def one(case: str, batch: int, device: str) -> dict[str, float]:
    """Return the growth of the peak and the seconds of one case; on a GPU the peak is the allocator's."""
    name, _, kind = case.partition(", ")
    work = step(name, batch) if kind == "step" else loss(name, batch, device)
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 1e9
    else:
        before = peak()
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
        return {
            "gigabytes": torch.cuda.max_memory_allocated() / 1e9 - before,
            "seconds": clock() - start,
        }
    return {"gigabytes": peak() - before, "seconds": clock() - start}


def loss(name: str, batch: int, device: str) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(batch, WIDTH, generator=generator).to(device) for _ in range(2))
    student.requires_grad_()
    LOSSES[name](student[:8].detach().requires_grad_(), teacher[:8]).backward()  # what a first call allocates once
    return lambda: LOSSES[name](student, teacher).backward()


def step(name: str, batch: int) -> Callable[[], None]:
    torch.manual_seed(0)
    teacher, student = (cg.models.build("cnn3", classes=10, in_channels=1) for _ in range(2))
    images = torch.randn(batch, 1, 8, 8)
    labels = torch.arange(batch) % 10
    distiller = cg.Distiller(teacher, student, ["ce", STEP[name]], example=images[:2])
    distiller(images[:8], labels[:8], micro_batch=4).loss.backward()
    return lambda: distiller(images, labels, micro_batch=CHUNK).loss.backward()


def measured(case: str, batch: int, *, blocks: bool) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", case, "--batch", str(batch), *(["--blocks"] if blocks else [])]
    result: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(f"{case}, {batch:,}{', blocks' if blocks else ''}: {result}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", help="only print what this one takes")
    parser.add_argument("--batch", type=int, default=LARGE)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--blocks", action="store_true", help="take blocks for a smaller batch, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.blocks:
        tiles.LARGE = 1
    if arguments.case:
        print(json.dumps(one(arguments.case, arguments.batch, arguments.device)))
        return
    figures: list[dict[str, Any]] = []
    for name in LOSSES:
        plain = measured(name, PLAIN, blocks=False)
        blocks = measured(name, PLAIN, blocks=True)
        large = measured(name, LARGE, blocks=True)
        scaled = large["seconds"] / blocks["seconds"] / (LARGE / PLAIN) ** 2
        figures.append(figure(f"{name}, {PLAIN:,}, plain", plain["gigabytes"], seconds=plain["seconds"]))
        figures.append(figure(f"{name}, {PLAIN:,}, blocks", blocks["gigabytes"], seconds=blocks["seconds"]))
        more = {"seconds": large["seconds"], "seconds_over_B²": scaled}
        figures.append(figure(f"{name}, {LARGE:,}, blocks", large["gigabytes"], 2.15, **more))
    for name in STEP:
        whole = measured(f"{name}, step", LARGE, blocks=True)
        figures.append(figure(f"{name}, {LARGE:,}, step", whole["gigabytes"], 2.15, seconds=whole["seconds"]))
    write("large_batches", DEFINITION, figures)


if __name__ == "__main__":
    main()
