"""What a run changes in its models temporarily: their modes, the memory order of weights, and compilation."""

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
from congruence.core.allocator import memory_kept
from congruence.distiller.distiller import Distiller
from congruence.models.compiled import Compiled
from congruence.models.layers import has_compiled
from congruence.models.memory_order import four_dimensional, ordered, prefers_channels_last, same_in_either_order
from congruence.models.sharded import is_sharded
from congruence.models.taps import Taps
from congruence.training.optim import align
from congruence.training.options import FitOptions
from congruence.training.saving.run_directory import RunDirectory


def start_training(distiller: Distiller) -> None:
    """Put students that are in evaluation mode into training mode.

    In a student that is in training mode, submodules that the user put into evaluation mode (frozen batch norms) stay
    so; calling `.train()` on the student would undo this. A submodule whose class overrides `train`, perhaps to freeze
    parts of itself, still has its `train` called.
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
    """Return options with "auto" replaced by the choice of the run to be resumed, or by a rule.

    Channels last applies to all students or none, and only if the distiller has been built from an example.
    """

    def settle() -> dict[str, Any]:
        before = RunDirectory(Path(options.out)).options() if options.resume and options.out is not None else {}
        names = [name for name in ("channels_last", "teacher_speed") if getattr(options, name) == "auto"]
        found = {name: before[name] for name in names if name in before}
        if "channels_last" in names and "channels_last" not in found:
            dtype = torch.float32 if options.precision == "float32" else torch.bfloat16
            taps = [distiller._taps[name] for name in distiller.students]
            sharded = options.shard is not None or is_sharded(distiller.students)
            found["channels_last"] = (
                not sharded and distiller.built and all(_gains(each, device, dtype) for each in taps)
            )
        return found

    return replace(options, **ranks.on_rank_zero(settle))


def _gains(taps: Taps, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a student is faster with its channels last and gives the same outputs for the example."""
    model = taps.model
    return prefers_channels_last(model, device, dtype) and same_in_either_order(
        four_dimensional(model), taps.dry_output
    )


@contextlib.contextmanager
def channels_last(
    distiller: Distiller, wanted: bool, optimizers: Sequence[Optimizer] = (), *, teacher: bool = True
) -> Iterator[None]:
    """Store the weights of two-dimensional convolutions with channels last during a block, if wanted.

    The outputs of these convolutions then have channels last too. No value changes. The optimizers' state follows the
    order of the weights, both ways (see `align`).

    Args:
        distiller: the distiller whose students' weights are reordered.
        wanted: whether to reorder them.
        optimizers: the caller's optimizers.
        teacher: whether to reorder the teacher's weights too; the copy of a prepared teacher has its own order.
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
def arranged(
    distiller: Distiller, options: FitOptions, device: torch.device, optimizers: Sequence[Optimizer] = ()
) -> Iterator[None]:
    """Keep a distiller's models as a run has them during a block; its options are settled (see `settled`)."""
    teacher = options.teacher_speed == "auto"
    # The memory order is set before models are compiled.
    with (
        memory_kept() if device.type == "cpu" else contextlib.nullcontext(),
        teacher_left_alone(distiller),
        channels_last(distiller, options.channels_last is True, optimizers, teacher=teacher),
        compiled(distiller, options.compile),
    ):
        yield


@contextlib.contextmanager
def teacher_left_alone(distiller: Distiller) -> Iterator[None]:
    """Undo the preparation of teachers that were prepared during a block."""
    before = {name: teacher.prepared for name, teacher in distiller.teachers.items()}
    try:
        yield
    finally:
        for name, teacher in distiller.teachers.items():
            teacher.prepared = before[name]


@contextlib.contextmanager
def compiled(distiller: Distiller, wanted: bool) -> Iterator[None]:
    """Run the students (in training mode) and the teacher through `torch.compile` during a block, if wanted.

    The models themselves are not changed. A model that the user has compiled stays as it is.
    """
    readers = [taps for taps in distiller._taps.values() if wanted and not has_compiled(taps.model)]
    for taps in readers:
        taps.compiled = Compiled()
    try:
        yield
    finally:
        for taps in readers:
            taps.compiled = None
