"""A training step of a compiled student beside one of the student as it is: FitOptions(compile=True).

python benchmarks/compiled_step.py (a C++ compiler is needed; the models are compiled first, or found in torch's cache)
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from interleaved import medians
from record import figure, write
from zoo_step import stepper, student

import congruence as cg
from congruence.training.modes import compiled

BATCH = 64
STUDENTS = ("cnn3", "resnet8")
DEFINITION = (
    "a training step of the compiled student / of the student as it is, median processor times of interleaved steps "
    "on one thread"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    figures = []
    for name in STUDENTS:
        plain, faster = student(name), student(name)
        options = cg.FitOptions(epochs=1)
        with compiled(faster, True):
            ways = {"plain": stepper(plain, options, BATCH), "compiled": stepper(faster, options, BATCH)}
            start = time.perf_counter()
            ways["compiled"]()
            first = time.perf_counter() - start
            if faster._taps["student"].compiled.refused:
                sys.exit("torch.compile does not work here: nothing is measured.")
            times = medians(ways, rounds)
        more = {f"{way}_milliseconds": round(1e3 * seconds, 2) for way, seconds in times.items()}
        ratio = times["compiled"] / times["plain"]
        figures.append(figure(name, ratio, **more, first_step_seconds=round(first, 1)))
    write("compiled_step", DEFINITION, figures, batch=BATCH, rounds=rounds)


if __name__ == "__main__":
    main()
