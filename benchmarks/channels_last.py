"""A training step with the maps' channels last in memory beside one without: FitOptions(channels_last=True).

python benchmarks/channels_last.py
"""

from __future__ import annotations

import argparse
from typing import get_args

import torch
from interleaved import medians
from record import figure, write
from zoo_step import stepper, student

import congruence as cg
from congruence.training.modes import channels_last
from congruence.training.options import Precision

BATCH = 64
STUDENTS = ("cnn3", "resnet8", "resnet20")
DEFINITION = "a training step with channels last / without, median processor times of interleaved steps on one thread"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    figures = []
    for name in STUDENTS:
        for precision in get_args(Precision)[:2]:
            options = cg.FitOptions(epochs=1, precision=precision)
            plain, last = student(name), student(name)
            with channels_last(last, True):
                ways = {"plain": stepper(plain, options, BATCH), "last": stepper(last, options, BATCH)}
                times = medians(ways, rounds)
            milliseconds = {f"{way}_milliseconds": round(1e3 * seconds, 2) for way, seconds in times.items()}
            figures.append(figure(f"{name}, {precision}", times["last"] / times["plain"], **milliseconds))
    write("channels_last", DEFINITION, figures, batch=BATCH, rounds=rounds)


if __name__ == "__main__":
    main()
