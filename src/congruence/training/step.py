"""One optimizer step."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from congruence.core.batch import Batch
from congruence.models.sharded import is_shard
from congruence.training.distributed import average_gradients, unwrapped
from congruence.training.optim import Optimization, step_unless
from congruence.training.options import HALF, FitOptions
from congruence.training.origin import Place
from congruence.training.record import NORMS_EVERY, SKIPPED, Recorder
from congruence.training.sharding import clip


def train_step(
    objective: nn.Module,
    batches: Sequence[Batch],
    optimization: Optimization,
    recorder: Recorder,
    options: FitOptions,
    step: int,
) -> None:
    """Average the gradients of the batches, clip them, and step unless a loss is not finite; nothing waits for values.

    A gradient that overflows because the loss was scaled is not an error: the step is skipped and the scale lowered.

    Args:
        objective: an `Objective`, or DDP around one.
        batches: one batch, or `options.accumulate` of them.
        optimization: the optimizers, which are stepped together, and the loss scaler, which is active only for fp16.
        recorder: receives the values; its flag decides whether the optimizers step.
        options: precision and clipping.
        step: number of the step, counted from 0.
    """
    optimizers, scaler = optimization.optimizers, optimization.scaler
    for parameter in optimization.parameters():
        # a gradient of None shows parameters that no loss reached; these are neither averaged nor clipped
        parameter.grad = None
    # 1. Forward and backward of each batch: grad = scale · Σ_b ∂loss_b/∂θ / batches, summed by autograd itself.
    half = HALF.get(options.precision)
    # kept as a tensor: reading it would wait for the GPU
    scale = scaler.scale(torch.ones((), device=recorder.bad.device))
    values: dict[str, Tensor] = {}
    norms: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    sums: dict[tuple[Place, ...], Tensor] = {}
    counts: dict[str, int] = {}
    with unwrapped(objective).balanced_over(batches):
        for position, batch in enumerate(batches):
            first, last = position == 0, position == len(batches) - 1
            with _quiet(objective, last):
                with torch.autocast(recorder.bad.device.type, half, enabled=half is not None):
                    scores = objective(batch, options.gradient_norms and first and step % NORMS_EVERY == 0, scale)
                if not scores.loss.requires_grad:
                    raise ValueError(
                        f"`fit`: the terms ({', '.join(scores.values)}) give the student no gradient: is all that lies "
                        "before the layers they read frozen (requires_grad=False)?"
                    )
                scaler.scale(scores.loss / len(batches) if len(batches) > 1 else scores.loss).backward()
            for name, value in {"loss": scores.loss.detach(), **scores.values}.items():
                share = value / len(batches) if len(batches) > 1 else value
                values[name] = values[name] + share if name in values else share
                counts[name] = counts.get(name, 0) + 1
            norms.update(scores.norms)
            weights.update(scores.weights)
            for places, of_batch in scores.sums.items():
                sums[places] = sums[places] + of_batch if places in sums else of_batch
    # A term may have sat out some batches; its value is then the mean over the others.
    values = {n: v if counts[n] == len(batches) else v * (len(batches) / counts[n]) for n, v in values.items()}
    # 2. The mean over the ranks, which DDP has taken already where it wraps; then the scale is divided out again, so
    # that clipping and the recorded norm are those of the loss itself.
    if not isinstance(objective, DistributedDataParallel):
        average_gradients(objective)
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    norm = _clip([p for p in optimization.parameters() if p.grad is not None], options.gradient_clip)
    # 3. Step, or not. With a scale above 1, an overflow may be the scale's fault: the step is skipped without an error.
    # At a scale of 1 it is an error, so that a run whose gradient is never finite ends.
    skipped = ~torch.isfinite(norm) & (scale > 1)
    norm = norm.masked_fill(skipped, 0.0)
    bad = recorder.check(step, values, norm, sums)
    for optimizer in optimizers:
        step_unless(optimizer, bad | skipped)
    # 4. Record. Nothing above has read a value from the device; the recorder does so every `log_every` steps.
    values["gradient_norm"] = norm
    if scaler.is_enabled():
        scaler.update()
        values[SKIPPED] = skipped.float()
    recorder.add(values, norms, weights)


def _quiet(objective: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """Let DDP exchange gradients only at the last backward of a step."""
    if isinstance(objective, DistributedDataParallel) and not last:
        return objective.no_sync()
    return contextlib.nullcontext()


def _clip(parameters: Sequence[nn.Parameter], largest: float | None) -> Tensor:
    """Return the gradient's norm over all parameters, before it is scaled down to `largest` if that is given."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if any(map(is_shard, gradients)):
        return clip(gradients, largest)
    if len({(gradient.device, gradient.dtype) for gradient in gradients}) == 1:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    else:
        norm = torch.nn.utils.get_total_norm(gradients)
    if largest is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm
