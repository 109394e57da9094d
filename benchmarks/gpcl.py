"""What ranking costs in exact GPCL at N = 10,000, beside torch's argsort of an argsort, and how much memory it takes.

python benchmarks/gpcl.py
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch
from record import figure, write

from congruence.geometry import dissimilarity_blocks
from congruence.metrics import global_perception_coherence
from congruence.metrics.order import row_ranks

SAMPLES, WIDTH, ROWS, BAR = 10_000, 64, 52, 0.1
DEFINITION = (
    "median(ranks with closed ties) / median(argsort of argsort, which closes none), processor seconds of one thread, "
    "the same rows of 10,000 distances"
)
UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


def peak() -> float:
    """The most memory this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 1e6


def seconds(work: Callable[[], object]) -> float:
    """Time one call on the one thread that there is, whatever else the machine does."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="interleaved pairs")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(SAMPLES, WIDTH, generator=generator)
    # Two of a hundred images are there twice: equal distances in every row.
    teacher[-SAMPLES // 100 :] = teacher[: SAMPLES // 100]
    student = teacher + torch.randn(SAMPLES, WIDTH, generator=generator)
    whole = {}
    for name in ("cosine", "euclidean"):
        before = peak()
        elapsed = seconds(lambda name=name: global_perception_coherence(student, teacher, dissimilarity=name))
        whole[name] = {"whole_seconds": round(elapsed, 2), "whole_megabytes": round(peak() - before, 1)}
    figures = []
    for name, more in whole.items():
        block = next(dissimilarity_blocks(teacher, teacher, name, ROWS))
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(rounds + 1):
            pair = seconds(lambda b=block: row_ranks(b, 1e-6)), seconds(lambda b=block: b.argsort(1).argsort(1))
            if number:  # the first round warms up
                times[0].append(pair[0])
                times[1].append(pair[1])
        ours, theirs = (1e3 * statistics.median(values) / ROWS for values in times)
        row = {"row_milliseconds": round(ours, 4), "argsort_row_milliseconds": round(theirs, 4)}
        figures.append(figure(name, ours / theirs, BAR, **row, **more))
    note = (
        "whole_*: global_perception_coherence of all samples; megabytes are what the largest resident set of the "
        "process grew by, the second only what it added to the first"
    )
    write("gpcl", DEFINITION, figures, samples=SAMPLES, width=WIDTH, note=note, rounds=rounds)


if __name__ == "__main__":
    main()
