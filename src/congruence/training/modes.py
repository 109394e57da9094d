"""What a run changes in its models for a while: their modes, the order of weights in memory, how they are run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from congruence.distiller.distiller import Distiller
from congruence.models.compiled import Compiled
from congruence.models.layers import has_compiled


def start_training(distiller: Distiller) -> None:
    """Put into training mode what is in evaluation mode as a whole.

    A student in training mode is left alone: parts of it that its owner put into evaluation mode (frozen batch norms)
    stay so, which `.train()` on the whole would undo. A part whose class has a `train` of its own, which may freeze
    some of it, is asked all the same.
    """
    distiller.training = True
    distiller.students.training = True
    distiller.methods.train()
    for student in distiller.students.values():
        if not student.training:
            student.train()
            continue
        own = [part for part in student.modules() if part.training and type(part).train is not nn.Module.train]
        frozen = [part for part in student.modules() if not part.training]
        for part in own:
            part.train()
        for part in frozen:
            part.training = False


@contextlib.contextmanager
def channels_last(distiller: Distiller, wanted: bool) -> Iterator[None]:
    """Hold the weights of two-dimensional convolutions, the teacher's too, with their channels last, where wanted.

    The maps that such a convolution gives have their channels last, too. No value changes.
    """
    modules = [distiller, *([distiller.teacher.module] if distiller.teacher else [])] if wanted else []

    def arrange(order: torch.memory_format) -> None:
        for tensor in (t for module in modules for t in (*module.parameters(), *module.buffers()) if t.dim() == 4):
            tensor.data = tensor.data.contiguous(memory_format=order)

    arrange(torch.channels_last)
    try:
        yield
    finally:
        arrange(torch.contiguous_format)


@contextlib.contextmanager
def compiled(distiller: Distiller, wanted: bool) -> Iterator[None]:
    """Run the students, in training mode, and the teacher by `torch.compile` while their layers are read, if wanted.

    The models themselves are not changed. One that its owner has compiled stays as it is.
    """
    readers = [taps for taps in distiller._taps.values() if wanted and not has_compiled(taps.model)]
    for taps in readers:
        taps.compiled = Compiled()
    try:
        yield
    finally:
        for taps in readers:
            taps.compiled = None
