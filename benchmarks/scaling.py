"""Strong scaling: a step of one process against one of two ranks that share its batch, and where the time goes.

python benchmarks/scaling.py [--rows ce pkt crd] [--rounds 9] [--steps 10] [--print]

A step is `train_step`'s: forwards of resnet20 and resnet8, the loss, backward, DDP, the optimizer; 128 images over all
ranks, one thread a process, gloo. Five processes take turns, so that whatever else the machine does falls on all: one
with the whole batch, one with half of it, two with half of it each at the same time that exchange nothing, and two
ranks. `efficiency` is T(one, 128) / (2·T(ranks)). The rest says what it loses:

- `half_batches`: T(one, 128) / (2·T(one, 64)): smaller batches are less efficient, on any number of processors.
- `together`: T(one, 64) / T(two alone): what two processes take from each other (memory, caches, clock).
- `own_milliseconds`: within this package's exchanges, the waiting for the other rank included.
- `ddp_milliseconds`: what is left of T(ranks) - T(two alone): the exchange of DDP, and waiting in it.

`calls` and `bytes` a step are this package's own collectives (`congruence.core.traffic`), without DDP's; `least_bytes`
are the rows that the loss relates, once, and the gradients of those that have one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from pair import CLASSES, bound
from record import figure, write

import congruence as cg
from congruence.core.batch import Batch
from congruence.core.traffic import Traffic, counting
from congruence.training.distributed import Objective, wrap
from congruence.training.optim import Optimization, make_optimizer
from congruence.training.record import Recorder
from congruence.training.step import train_step

DEFINITION = (
    "T(one process, 128 images) / (2·T(two ranks, 64 each)), median of turns; half_batches, together: the same loss by "
    "halves of the batch, and by two processes that exchange nothing; milliseconds a step in our exchanges and in DDP's"
)
BATCH, RANKS, WIDTH, TABLE = 128, 2, 64, 10_000
ROLES = ("one", "half", "alone 0", "alone 1", "rank 0", "rank 1")
BAR = 0.9


def least(key: str) -> int:
    """Bytes that a rank must receive of the other one a step: rows that the loss relates, and their gradients."""
    half, rows, label = BATCH // RANKS, 4 * WIDTH, 8
    return {
        "ce": 8,  # how many samples have a label
        "pkt": half * (2 * rows + rows),  # both models' features, the gradient of the student's
        "crd": half * (2 * 4 * 128 * 2 + 2 * label),  # both embeddings and their gradients, label and index
    }.get(key, 0)


def stepper(key: str, size: int, first: int) -> Callable[[], None]:
    """Return a training step over some rows of the batch."""
    torch.manual_seed(0)
    teacher, student = cg.models.build("resnet20", classes=CLASSES), cg.models.build("resnet8", classes=CLASSES)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, 3, 32, 32, generator=generator)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    rows = slice(first, first + size)
    data = (images[rows], labels[rows], torch.arange(BATCH)[rows])
    distiller, _ = bound(key, teacher, student, data, TABLE)
    options = cg.FitOptions(epochs=1, device="cpu", gradient_norms=False)
    optimizer = make_optimizer(distiller.parameter_groups(), options.optimizer)
    optimization = Optimization([optimizer], options, None, epochs=1, device=torch.device("cpu"))
    objective, recorder = wrap(Objective(distiller)), Recorder(None, every=50, device=torch.device("cpu"))
    distiller._sitting_out.in_step = True  # as in `fit`
    return lambda: train_step(objective, [Batch(*data)], optimization, recorder, options, 1)


def worker(role: str, rows: list[str], steps: int, store: str, pipe: Connection) -> None:
    """Take turns of some steps when told to; answer with seconds and counts a step."""
    torch.set_num_threads(1)
    name, _, number = role.partition(" ")
    if name == "rank":
        torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=int(number), world_size=RANKS)
    size = BATCH if name == "one" else BATCH // RANKS
    calls = {key: stepper(key, size, size * int(number or 0)) for key in rows}
    while (key := pipe.recv()) is not None:
        calls[key]()  # the caches are warm, and the ranks begin together
        with counting() as traffic:
            start = time.perf_counter()
            for _ in range(steps):
                calls[key]()
            seconds = time.perf_counter() - start
        pipe.send((seconds / steps, traffic))
    os._exit(0)


def turns(rows: list[str], rounds: int, steps: int) -> dict[str, dict[str, list[tuple[float, Traffic]]]]:
    """Return what each role answered, by row and role."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, dict[str, list[tuple[float, Traffic]]]] = {key: {role: [] for role in ROLES} for key in rows}
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = {}, []
        for role in ROLES:
            pipes[role], theirs = context.Pipe()
            process = context.Process(target=worker, args=(role, rows, steps, str(Path(folder) / "store"), theirs))
            process.start()
            processes.append(process)
        for turn in range(rounds + 1):
            for key in rows:
                for together in (("one",), ("half",), ("alone 0", "alone 1"), ("rank 0", "rank 1")):
                    for role in together:
                        pipes[role].send(key)
                    for role in together:
                        answer = pipes[role].recv()
                        if turn:  # the first round warms up
                            found[key][role].append(answer)
        for pipe in pipes.values():
            pipe.send(None)
        for process in processes:
            process.join()
    return found


def figures(key: str, found: dict[str, list[tuple[float, Traffic]]], steps: int) -> list[dict[str, Any]]:
    """The figures of one row."""

    def seconds(*roles: str) -> float:
        turns_of = zip(*(found[role] for role in roles), strict=True)
        return statistics.median(statistics.mean(each[0] for each in turn) for turn in turns_of)

    one, half, alone = seconds("one"), seconds("half"), seconds("alone 0", "alone 1")
    ranks = seconds("rank 0", "rank 1")
    of_rank = [traffic for _, traffic in found["rank 0"]]
    own = statistics.median(sum(traffic.seconds.values()) / steps for traffic in of_rank)
    parts = {
        "half_batches": round(one / (RANKS * half), 4),
        "together": round(half / alone, 4),
        "own_milliseconds": round(1000 * own, 3),
        "ddp_milliseconds": round(1000 * (ranks - alone - own), 3),
        "milliseconds": round(1000 * ranks, 3),
    }
    calls = sum(of_rank[-1].calls.values()) / steps
    exchanged = sum(of_rank[-1].bytes.values()) / steps
    return [
        figure(f"{key}: efficiency of {RANKS} ranks", one / (RANKS * ranks), least=BAR, **parts),
        figure(f"{key}: collectives a step beside DDP's", calls, 4),
        figure(f"{key}: bytes a step beside DDP's", exchanged, least_bytes=least(key)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=["ce", "pkt", "crd"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--print", action="store_true", help="print, write nothing")
    arguments = parser.parse_args()
    found = turns(arguments.rows, arguments.rounds, arguments.steps)
    every = [each for key in arguments.rows for each in figures(key, found[key], arguments.steps)]
    if arguments.print:
        for each in every:
            print(each)
    else:
        write("scaling", DEFINITION, every)


if __name__ == "__main__":
    main()
