"""What a run changes in its models for a while: their modes, the order of weights in memory, how they are run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from congruence.core import ranks
from congruence.distiller.distiller import Distiller
from congruence.models.compiled import Compiled
from congruence.models.layers import has_compiled
from congruence.models.memory_order import four_dimensional, ordered, prefers_channels_last, same_in_either_order
from congruence.models.taps import Taps
from congruence.training.optim import align
from congruence.training.options import FitOptions
from congruence.training.saving.run_directory import RunDirectory


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


def settled(options: FitOptions, distiller: Distiller, device: torch.device) -> FitOptions:
    """Return options in which nothing is "auto" that the run to go on with has settled, or a rule settles.

    Channels last are for all students or none, and not without the example of a distiller that is built.
    """

    def settle() -> dict[str, Any]:
        before = RunDirectory(Path(options.out)).options() if options.resume and options.out is not None else {}
        names = [name for name in ("channels_last", "teacher_speed") if getattr(options, name) == "auto"]
        found = {name: before[name] for name in names if name in before}
        if "channels_last" in names and "channels_last" not in found:
            dtype = torch.float32 if options.precision == "float32" else torch.bfloat16
            taps = [distiller._taps[name] for name in distiller.students]
            found["channels_last"] = distiller.built and all(_gains(each, device, dtype) for each in taps)
        return found

    return replace(options, **ranks.on_rank_zero(settle))


def _gains(taps: Taps, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a student is faster with its channels last, and says the same of the example so."""
    model = taps.model
    return prefers_channels_last(model, device, dtype) and same_in_either_order(
        four_dimensional(model), taps.dry_output
    )


@contextlib.contextmanager
def channels_last(
    distiller: Distiller, wanted: bool, optimizers: Sequence[Optimizer] = (), *, teacher: bool = True
) -> Iterator[None]:
    """Hold the weights of two-dimensional convolutions with their channels last, where wanted.

    The maps that such a convolution gives have their channels last, too. No value changes. What the optimizers keep of
    the weights follows them, both ways (see `align`).

    Args:
        distiller: whose students' weights are put in order.
        wanted: whether to.
        optimizers: the caller's own.
        teacher: whether the teacher's are, too; where it was prepared, its copy has an order of its own.
    """
    teachers = [each.module for each in distiller.teachers.values()] if teacher else []
    modules = [distiller, *teachers] if wanted else []
    weights = [tensor for module in modules for tensor in four_dimensional(module)]
    found = [tensor for tensor in weights if not tensor.is_contiguous(memory_format=torch.channels_last)]
    for module in modules:
        ordered(module, last=True)
    fused = [optimizer for optimizer in optimizers if wanted and isinstance(optimizer, Optimizer)]
    for optimizer in fused:
        align(optimizer)
    try:
        yield
    finally:
        for tensor in found:
            tensor.data = tensor.data.contiguous()
        for optimizer in fused:
            align(optimizer)


@contextlib.contextmanager
def teacher_left_alone(distiller: Distiller) -> Iterator[None]:
    """Let teachers that were prepared meanwhile run as before afterwards."""
    before = {name: teacher.prepared for name, teacher in distiller.teachers.items()}
    try:
        yield
    finally:
        for name, teacher in distiller.teachers.items():
            teacher.prepared = before[name]


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
