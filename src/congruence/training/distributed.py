"""One process or several: the device, the process group, and the module that DDP wraps."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from congruence.core.batch import Batch
from congruence.core.devices import on_tensors, tensors, to_device
from congruence.core.graph import checkpoints_reentrantly
from congruence.core.ranks import any_rank, means_over_ranks, world_size
from congruence.distiller.as_found import as_found
from congruence.distiller.balance import mean_gradients
from congruence.distiller.captured import Captured
from congruence.distiller.distiller import Distiller
from congruence.methods.term import Term
from congruence.models.sharded import is_shard, is_sharded
from congruence.training.filling import storing
from congruence.training.gradient_norms import GradientNorms
from congruence.training.origin import Place, sums_of
from congruence.training.trial import as_in_training


def join_process_group(device: torch.device) -> None:
    """Join the process group that torchrun announces, unless one is up or this is a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # where nccl exchanges objects
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave_process_group)


def _leave_process_group() -> None:
    # A DDP module that is still referenced would keep gloo's threads alive until the interpreter exits, which then
    # aborts.
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()


def pick_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is this rank's GPU if there is one, else the CPU."""
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"`FitOptions`: `device` must be an available device, got '{name}' ({reason}).") from None
    return device


class Scores(NamedTuple):
    """The results of a forward pass that a step needs:

    the loss with its gradient, and values without gradient. `weights` are the balanced weights; `sums` are sums of the
    terms' input tensors, see `training.origin`.
    """

    loss: Tensor
    values: dict[str, Tensor]
    norms: dict[str, Tensor]
    weights: dict[str, Tensor]
    sums: dict[tuple[Place, ...], Tensor]


class Objective(nn.Module):
    """The distiller as a function of one batch that returns only the loss with its gradient.

    DDP waits for every parameter that it can reach from the returned tensors, so the models' outputs must not be
    returned.
    """

    def __init__(self, distiller: Distiller, micro_batch: int | None = None) -> None:
        super().__init__()
        self.distiller, self.micro_batch = distiller, micro_batch
        self.gradient_norms = GradientNorms(distiller.students, reruns=micro_batch is not None)

    def forward(self, batch: Batch, with_norms: bool, scale: Tensor | float = 1.0) -> Scores:
        """Score a batch; with `with_norms` also measure the gradient of each term, see `GradientNorms`."""
        captured = self._capture(batch)
        out = self.distiller.score(captured, update=self.distiller.training)
        norms = self.gradient_norms(out.terms, out.weights, torch.as_tensor(scale)) if with_norms else {}
        values = {name: value.detach() for name, value in out.terms.items()}
        balanced = set(self.distiller.balance.balanced)
        weights = {n: weight.detach() for n, weight in out.weights.items() if n.partition(".")[0] in balanced}
        return Scores(out.loss, values, norms, weights, sums_of(captured))

    def _capture(self, batch: Batch) -> Captured:
        with storing(self.distiller):
            return self.distiller.capture(
                batch.inputs, batch.labels, batch.index, views=batch.views, micro_batch=self.micro_batch
            )

    @contextlib.contextmanager
    def balanced_over(self, batches: Sequence[Batch]) -> Iterator[None]:
        """Fix the balanced weights for a step of several batches, measured on the gradient of all of them if due.

        This runs the batches' forwards one more time, with the dropout masks of the step, and changes no state.
        """
        balance, clock = self.distiller.balance, self.distiller.clock
        if len(batches) == 1 or not balance.balanced:
            yield
            return
        names = [term.name for term in self.distiller.terms if term.active(clock)]
        due = balance.due(clock, names)
        if due:
            with as_found(self.distiller):
                of_batches = [self._gradients(due, batch) for batch in batches]
            balance.take(due, clock, mean_gradients(of_batches))
        balance.count(clock, names)
        balance.held = True
        try:
            yield
        finally:
            balance.held = False

    def _gradients(self, due: Sequence[Term], batch: Batch) -> dict[str, list[Tensor]]:
        captured = self._capture(batch)
        losses = self.distiller.losses(captured)
        return self.distiller.balance.gradients(
            due, losses, self.distiller.clock, self.distiller.students, reruns=self.micro_batch is not None
        )


def wrap(objective: Objective) -> nn.Module:
    """Wrap the objective in DDP if there are several ranks.

    Buffers are not broadcast. Those of methods (banks, running sums) are equal on all ranks anyway, since `update` sees
    gathered rows, and a broadcast before each forward would undo updates. Those of batch norms differ between ranks,
    and the first rank's are saved. A term may leave a student's head without gradient, so DDP searches for unused
    parameters. As torch warns on every rank if it finds none, one unused parameter is added.

    With micro-batches, all of a student's parameters are reached at once, so DDP cannot find the unused ones. Nor does
    it support gradients that arrive in several parts, as with re-entrant checkpointing. In both cases DDP is not used:
    all ranks start from the first rank's parameters, and `average_gradients` runs after the backward.
    """
    if world_size() == 1:
        return objective
    sharded = is_sharded(objective.distiller.students)  # FSDP averages the shards, `average_gradients` the rest
    if sharded or objective.micro_batch is not None or _checkpoints_reentrantly(objective.distiller):
        for parameter in objective.parameters():
            if not is_shard(parameter):
                dist.broadcast(parameter.detach(), src=0)
        return objective
    device = next(objective.parameters()).device
    # Not reached by any loss, on purpose: the search for unused parameters then always finds one.
    objective.unused = nn.Parameter(torch.zeros((), device=device))
    with warnings.catch_warnings():
        # torch 2.13 deprecates `broadcast_buffers`; its successor is missing in older versions, and broadcasts once.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(objective, broadcast_buffers=False, find_unused_parameters=True)


def unwrapped(objective: nn.Module) -> Objective:
    """Return the objective inside a DDP wrapper, or the objective itself."""
    inner = objective.module if isinstance(objective, DistributedDataParallel) else objective
    return cast(Objective, inner)


def _checkpoints_reentrantly(distiller: Distiller) -> bool:
    """Whether a student's graph holds re-entrant checkpointing on any rank, found by a forward of the example."""
    found = False
    device = next(distiller.parameters()).device
    # the first step will raise this
    with as_in_training(distiller), torch.enable_grad(), contextlib.suppress(Exception):
        for name in distiller.students:
            taps = distiller._taps[name]
            example = on_tensors(Tensor.clone, to_device(taps.example, device))
            found = found or checkpoints_reentrantly(tensors(taps.read(example)))
    return bool(any_rank(torch.tensor(found, device=device)))


def first_ranks_statistics(students: nn.Module) -> None:
    """Give every rank the running statistics of the first rank's batch norms, which are saved with the student.

    Each rank tracks those of its own rows. So that ranks that share a validation measure one student, and a run that is
    resumed goes on alike, they are made equal at the end of an epoch. Training does not read them.
    """
    if world_size() == 1:
        return
    norms = [part for part in students.modules() if isinstance(part, _BatchNorm)]
    buffers = [b for norm in norms for b in (norm.running_mean, norm.running_var) if b is not None]
    for kind in dict.fromkeys(buffer.dtype for buffer in buffers):
        of_kind = [buffer for buffer in buffers if buffer.dtype == kind]
        flat = torch.cat([buffer.flatten() for buffer in of_kind])
        dist.broadcast(flat, src=0)
        for buffer, first in zip(of_kind, flat.split([buffer.numel() for buffer in of_kind]), strict=True):
            buffer.copy_(first.view_as(buffer))


def average_gradients(module: nn.Module) -> None:
    """Average the gradients over the ranks: grad = Σ_ranks grad / ranks; nothing on a single process.

    For loops of your own in which no DistributedDataParallel does it. FSDP has averaged those of sharded parameters
    (DTensors) already, which are left alone; a term's own parameters, which are not sharded, need this. A parameter
    without a gradient on every rank stays without.

    Args:
        module: the distiller, or another module, after the backward. All ranks must call this.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> layer(torch.ones(3, 2)).sum().backward()
        >>> average_gradients(layer)
        >>> layer.bias.grad
        tensor([3.])
    """
    if world_size() == 1:
        return
    parameters = [p for p in module.parameters() if p.requires_grad and not is_shard(p)]
    if not parameters:
        return
    there = torch.tensor([p.grad is not None for p in parameters], device=parameters[0].device)
    shared = [p for p, somewhere in zip(parameters, any_rank(there).tolist(), strict=True) if somewhere]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in shared]
    for parameter, mean in zip(shared, means_over_ranks(gradients), strict=True):
        parameter.grad = mean
