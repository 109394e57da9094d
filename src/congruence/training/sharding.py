"""Shards a run's models by FSDP2, and refuses what does not work with sharded models."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from congruence.core import check
from congruence.core.batch import Batch
from congruence.core.ranks import from_all_ranks, world_size
from congruence.data.loading.source import BatchSource
from congruence.distiller.distiller import Distiller
from congruence.models.parameters import is_quantized
from congruence.models.sharded import global_norm, is_shard, is_sharded
from congruence.training.options import FitOptions

LOG = logging.getLogger("congruence")


def units(model: nn.Module, ran: Iterable[str] | None = None) -> list[nn.Module]:
    """Return the parts of a model that are sharded on their own, inner ones first: its repeated blocks.

    These are the children of every `ModuleList`, and children with parts of their own whose class occurs more than once
    in one parent. A block that shares a parameter with the rest of the model, or that did not run, is left to the root.

    Args:
        model: the model.
        ran: paths of the modules that run in its forward; None if that is not known.

    Example:
        >>> block = lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> len(units(nn.Sequential(block(), block(), nn.Linear(2, 1))))
        2
    """
    found: list[nn.Module] = []
    paths = {id(part): path for path, part in model.named_modules()}
    known = None if ran is None else set(ran)
    for parent in reversed(list(model.modules())):
        listed = isinstance(parent, nn.ModuleList)
        kinds = Counter(type(child) for child in parent.children())
        for child in parent.children():
            block = listed or (kinds[type(child)] > 1 and bool(child._modules))
            runs = known is None or paths[id(child)] in known
            if block and runs and not isinstance(child, nn.ModuleList | nn.ModuleDict) and child not in found:
                found.append(child)
    owned = [child for child in found if _own_parameters(child, found) and not _shares(model, child)]
    return [child for child in model.modules() if child in owned][::-1]


def _own_parameters(part: nn.Module, others: Sequence[nn.Module]) -> bool:
    """Whether a part has parameters that are in no unit inside it."""
    inner = {id(p) for other in others if other is not part and _inside(other, part) for p in other.parameters()}
    return any(id(p) not in inner for p in part.parameters())


def _inside(inner: nn.Module, outer: nn.Module) -> bool:
    return any(inner is part for part in outer.modules())


def _shares(model: nn.Module, part: nn.Module) -> bool:
    own = {id(inner) for inner in part.modules()}
    rest = {id(p) for each in model.modules() if id(each) not in own for p in each.parameters(recurse=False)}
    return any(id(p) in rest for p in part.parameters())


def shard(model: nn.Module, ran: Iterable[str] | None = None, *, trains: bool = True, name: str = "student") -> None:
    """Shard a model over all ranks in place: each of its `units`, then the rest with the model itself.

    All ranks start from the first rank's parameters and buffers. What FSDP2 cannot shard (scalars and integers) stays
    whole.

    Args:
        model: the model, on its device.
        ran: see `units`.
        trains: whether it gets gradients; of a teacher nothing stays whole after its forward.
        name: of the model in messages.

    Raises:
        ValueError: for a quantised model.
    """
    from torch.distributed.fsdp import fully_shard

    if is_quantized(model):
        raise ValueError(f"`FitOptions`: `shard` cannot divide the {name}, which is quantised: give it unquantised.")
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), src=0)
    rest = {p for p in model.parameters() if not p.dim() or not p.is_floating_point()}
    for unit in units(model, ran):
        fully_shard(unit, ignored_params=rest)
    fully_shard(model, ignored_params=rest, reshard_after_forward=None if trains else True)


def shard_as_wanted(distiller: Distiller, options: FitOptions) -> None:
    """Shard the students, and with "both" the teachers, of a distiller whose layers have been found.

    Models that the caller has sharded stay as they are. On a single process nothing is sharded.
    """
    if options.shard is None or world_size() == 1:
        return
    for name, student in distiller.students.items():
        if not is_sharded(student):
            shard(student, distiller._taps[name]._calls, name=name)
    for teacher in distiller.teachers.values() if options.shard == "both" else ():
        if not is_sharded(teacher.module):
            teacher.known = teacher.fingerprint()
            shard(teacher.module, teacher.taps._calls, trains=False, name=teacher.taps.name)


def refuse_with_shards(distiller: Distiller, options: FitOptions, optimizers: Sequence[Optimizer]) -> None:
    """Raise for options, models and optimizers that do not work together with sharded models.

    Raises:
        ValueError: naming the option.
    """
    if world_size() > 1 and any(is_sharded(teacher.module) for teacher in distiller.teachers.values()):
        _refuse_cached(distiller)
    if options.shard == "both":
        _refuse_cached(distiller)
    if options.shard is None and not is_sharded(distiller.students):
        return
    wrong = {
        "micro_batch": (options.micro_batch is None, "None", "the second pass would bypass FSDP's gradients"),
        "compile": (not options.compile, "False", "taps cannot be compiled through FSDP's hooks"),
        "channels_last": (options.channels_last is not True, '"auto" or False', "FSDP shards contiguous weights only"),
        "precision": (options.precision != "fp16", '"bf16" or "float32"', "its loss scaler knows no shards"),
        "diagnose": (options.diagnose is None, "None", "it runs on the first rank only, and a sharded model on all"),
    }
    for option, (works, wanted, why) in wrong.items():
        if not works:
            check.fail("FitOptions", option, f"{wanted} for sharded students ({why})", getattr(options, option))
    if optimizers and options.shard is not None and not is_sharded(distiller.students) and world_size() > 1:
        check.fail(
            *("fit", "optimizer", "left out with `shard`, which replaces the parameters that it would step"),
            "an optimizer (or shard the student yourself by fully_shard, then make the optimizer)",
        )


def _refuse_cached(distiller: Distiller) -> None:
    if distiller.caches:
        raise ValueError(
            "`fit`: a teacher with a cache cannot be sharded, since a rank runs it only where samples are missing: "
            'shard the student alone (shard="student"), or leave the cache out.'
        )


def clip(gradients: Sequence[Tensor], largest: float | None) -> Tensor:
    """Return the norm of sharded gradients over all ranks, before they are scaled down to `largest` if that is given.

    Args:
        gradients: DTensors, and plain tensors that are equal on all ranks.
        largest: the largest norm.
    """
    norm = global_norm(gradients)
    if largest is not None:
        factor = (largest / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            own: Any = gradient
            part: Tensor = own.to_local() if is_shard(own) else own
            part.mul_(factor.to(part))
    return norm


def any_sharded(distiller: Distiller) -> bool:
    """Whether a student or a teacher is sharded, so that all ranks must run it together."""
    return is_sharded(distiller.students) or any(is_sharded(each.module) for each in distiller.teachers.values())


def in_step(batches: Iterator[Batch], source: BatchSource) -> Iterator[tuple[Batch, bool]]:
    """Yield a rank's batches, and whether each counts: a rank without any left repeats one while others have some.

    Every forward of a sharded model needs all ranks.
    """
    latest: Batch | None = None
    while True:
        batch = next(batches, None)
        if True not in from_all_ranks(batch is not None):
            return
        if batch is not None:
            latest = batch
        elif latest is None:
            latest = source.first()
        yield latest, batch is not None
