"""Training and evaluation mode, changed for a while and left as they were found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from congruence.engine.distiller import Distiller


def start_training(distiller: Distiller) -> None:
    """Put into training mode what is in evaluation mode as a whole.

    A student in training mode is left alone: parts of it that its owner put into evaluation mode (frozen batch norms)
    stay so, which `.train()` on the whole would undo.
    """
    distiller.training = True
    distiller.students.training = True
    distiller.methods.train()
    for student in distiller.students.values():
        if not student.training:
            student.train()


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Hold a module in evaluation mode; each part goes back to its own mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
