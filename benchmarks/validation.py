"""What validation without labels costs where the teacher is asked in every epoch, beside asking it once a run.

python benchmarks/validation.py
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from typing import Any

import torch
from interleaved import medians
from record import figure, write
from torch.utils.data import DataLoader, TensorDataset

import congruence as cg
from congruence.distiller.remembered import Remembered
from congruence.training.validate import measured

IMAGES, CPU = 1000, torch.device("cpu")
DEFINITION = (
    "median(validation that runs the teacher) / median(validation that remembers its answers), processor time of one "
    f"thread: the loss of `pkt` on {IMAGES} images of 32×32 without labels, resnet20 to cnn3, second epoch on; "
    "a loader of congruence knows a batch by its samples, any other by a hash of the inputs"
)


class Forgetful(Remembered):
    """Remembers nothing."""

    def lent(self, distiller: cg.Distiller) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def validation(distiller: cg.Distiller, loader: Any, memory: Remembered) -> Callable[[], Any]:
    """One epoch's validation."""
    return lambda: measured(distiller, loader, None, CPU, memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.randn(IMAGES, 3, 32, 32)
    teacher, student = cg.models.build("resnet20", classes=10), cg.models.build("cnn3", classes=10)
    distiller = cg.Distiller(teacher, student, ["pkt"], example=images[:2])
    for each in distiller.teachers.values():
        each.prepare()  # the quicker copy that `fit` asks
    rows = TensorDataset(images)
    loaders = {
        "known by its samples": cg.data.loader(cg.data.ItemDataset(rows), batch_size=64, shuffle=False),
        "known by its content": DataLoader(rows, batch_size=64),
    }
    figures = []
    for name, loader in loaders.items():
        calls = {kind.__name__: validation(distiller, loader, kind(loader)) for kind in (Remembered, Forgetful)}
        times = medians(calls, rounds)
        figures.append(figure(name, times["Forgetful"] / times["Remembered"], seconds=round(times["Remembered"], 4)))
    write("validation", DEFINITION, figures, rounds=rounds)


if __name__ == "__main__":
    main()
