"""Optimizers and their learning rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from congruence.models.sharded import is_shard
from congruence.training.options import FitOptions, OptimizerOptions, Precision, ScheduleOptions
from congruence.training.saving.state import Stateful


def make_optimizer(groups: list[dict[str, Any]], options: OptimizerOptions) -> Optimizer:
    """Build the optimizer of the options over named parameter groups."""
    # Fused kernels are the fastest, and on a GPU they can skip a step by a flag on the device (`step_unless`).
    parameters = [parameter for group in groups for parameter in group["params"]]
    kinds = {parameter.device.type for parameter in parameters if parameter.is_floating_point()}
    fused = (len(kinds) == 1 and kinds <= {"cpu", "cuda"} and all(map(torch.is_floating_point, parameters))) or None
    fused = None if any(map(is_shard, parameters)) else fused  # no kernel takes shards and whole tensors together
    if options.name == "adamw":
        return torch.optim.AdamW(
            groups, lr=options.lr, betas=options.betas, weight_decay=options.weight_decay, fused=fused
        )
    return torch.optim.SGD(
        groups,
        lr=options.lr,
        momentum=options.momentum,
        nesterov=options.nesterov,
        weight_decay=options.weight_decay,
        fused=fused,
    )


def make_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Build the loss scaler for fp16, whose small gradients underflow; for other precisions it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


class Optimization:
    """Everything that updates the parameters: optimizers stepped together, learning rates, and the loss scaler.

    Args:
        optimizers: at least one.
        options: the precision, and the schedule unless there is a `scheduler`.
        scheduler: the caller's own, stepped once an epoch; None for the options' schedule.
        epochs: length of the run, for the schedule.
        device: the parameters' device.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        options: FitOptions,
        scheduler: Any,
        *,
        epochs: float,
        device: torch.device,
    ) -> None:
        self.optimizers, self.scheduler = tuple(optimizers), scheduler
        self.scaler = make_scaler(options.precision, device)
        self.rates = Rates(optimizers, options.schedule if scheduler is None else None, epochs)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters in the optimizers."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                yield from group["params"]

    def all(self) -> tuple[Any, ...]:
        """Return the optimizers, and the caller's scheduler where there is one."""
        return (*self.optimizers, *([] if self.scheduler is None else [self.scheduler]))

    def parts(self) -> dict[str, Stateful]:
        """Return the parts that a checkpoint stores, by name."""
        parts: dict[str, Stateful] = {f"optimizer.{number}": each for number, each in enumerate(self.optimizers)}
        if self.scaler.is_enabled():
            parts["scaler"] = self.scaler
        if self.scheduler is not None:
            parts["scheduler"] = self.scheduler
        return parts

    def end_epoch(self) -> None:
        """Step the caller's scheduler."""
        if self.scheduler is not None:
            self.scheduler.step()


class Rates:
    """Sets every group's learning rate from its initial rate and the schedule; has no state to resume.

    If the caller has a scheduler, the rates are left alone.
    """

    def __init__(self, optimizers: Sequence[Optimizer], schedule: ScheduleOptions | None, epochs: float) -> None:
        self.optimizers, self.schedule, self.epochs = optimizers, schedule, epochs
        if schedule is not None:
            for group in self._groups():
                group.setdefault("initial_lr", group["lr"])

    def _groups(self) -> list[dict[str, Any]]:
        """Return all parameter groups, read on each call because `load_state_dict` replaces them."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def first(self) -> float:
        """The first group's rate."""
        return float(self._groups()[0]["lr"])

    def set(self, position: float) -> None:
        """Set the rates for a position in epochs."""
        if self.schedule is None:
            return
        factor = self.schedule.at(position, self.epochs)
        for group in self._groups():
            group["lr"] = group["initial_lr"] * factor


def step_unless(optimizer: Optimizer, bad: Tensor) -> None:
    """Step unless the device flag `bad` is set, without waiting for the device if the optimizer supports this.

    Fused optimizers read `found_inf` on the device. For the others the flag is read here, which on a CPU costs nothing.
    """
    align(optimizer, state=False)
    begun = momentum_begun(optimizer)
    if bad.is_cuda and getattr(optimizer, "_step_supports_amp_scaling", False) and begun:
        optimizer.grad_scale, optimizer.found_inf = None, bad.float()  # type: ignore[attr-defined]
        optimizer.step()
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
    elif not bool(bad):
        optimizer.step()


def align(optimizer: Optimizer, *, state: bool = True) -> None:
    """Give gradients and optimizer state the memory order of their parameters, for fused kernels.

    These kernels ignore strides: a channels-first gradient would silently be added to the wrong weights of a
    channels-last parameter. The state, which takes longer to check, is reordered only with the parameters or after
    loading.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("fused") else ():
            strides = parameter.stride()
            if parameter.grad is not None and parameter.grad.stride() != strides:
                parameter.grad = _like(parameter, parameter.grad)
            of_parameter = optimizer.state.get(parameter, {}) if state else {}
            for name, value in of_parameter.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != strides:
                    of_parameter[name] = _like(parameter, value)


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def momentum_begun(optimizer: Optimizer) -> bool:
    """Initialise the momentum of a fused SGD to 0; return False if it cannot start from 0.

    If the first step is skipped, torch leaves the momentum as uninitialised memory and the second step uses it; for
    parameters whose first gradient comes later than others', it raises. Starting from 0 gives torch's first step, m =
    0·m + (1 − dampening)·g = g, except with dampening, which torch leaves out of the first step.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return True
    moving = [group for group in optimizer.param_groups if group["momentum"] and group.get("fused")]
    state = optimizer.state
    if len(state) == sum(len(group["params"]) for group in optimizer.param_groups):
        return True
    new = [
        p
        for group in moving
        for p in group["params"]
        if p.grad is not None and "momentum_buffer" not in state.get(p, {})
    ]
    if any(group["dampening"] for group in moving):
        return not new
    for parameter in new:
        state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return True
