"""Batch norms over the batch of all ranks, on any device: torch's SyncBatchNorm runs on GPUs only."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from congruence.core.gathering import gather_all
from congruence.core.numerics import widen
from congruence.core.ranks import rank, world_size

LOG = logging.getLogger("congruence")


@contextlib.contextmanager
def synchronised(parts: Sequence[nn.Module], on: bool) -> Iterator[None]:
    """Let the batch norms in training mode use the mean and variance of all ranks' rows within the block.

    Their modules and state stay what they are. One exchange a layer in the forward, and one in the backward. With one
    process nothing changes; without `on`, the first rank says once that each rank normalises its own rows.
    """
    norms = [part for whole in parts for part in whole.modules() if isinstance(part, _BatchNorm)]
    norms = [norm for norm in norms if not isinstance(norm, nn.SyncBatchNorm)]
    if world_size() == 1 or not norms:
        yield
        return
    if not on:
        moving = sum(norm.training for norm in norms)
        if moving and rank() == 0:
            LOG.warning(
                "%d batch norms use the statistics of each rank's own part of a batch, as usual: so %d ranks train a "
                "little differently from one. `sync_batch_norm=True` takes those of the whole batch.",
                *(moving, world_size()),
            )
        yield
        return
    for norm in norms:
        norm.__dict__["forward"] = functools.partial(_normalised, norm, norm.forward)
    try:
        yield
    finally:
        for norm in norms:
            del norm.__dict__["forward"]


def _normalised(norm: _BatchNorm, alone: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Normalise by the statistics of all ranks' rows; `alone` is the module's own forward, for its evaluation mode.

    mean = Σ_r n_r·mean_r / n,  var = Σ_r n_r·(var_r + (mean_r - mean)²) / n
    """
    if not (norm.training or norm.running_mean is None):
        return alone(x)
    norm._check_input_dim(x)
    channels, rows = x.shape[1], x.numel() // x.shape[1]
    over = [dim for dim in range(x.dim()) if dim != 1]
    values = widen(x)
    var, mean = torch.var_mean(values, over, correction=0)
    (of_ranks,) = gather_all([torch.cat([mean, var, mean.new_full((1,), rows)])[None]])
    means, variances, counts = of_ranks.split([channels, channels, 1], 1)
    total = counts.sum()
    if total == 1:
        raise ValueError(f"`sync_batch_norm`: a batch norm needs more than 1 value a channel, got {list(x.shape)}.")
    share = counts / total
    mean = (share * means).sum(0)
    var = (share * (variances + (means - mean).square())).sum(0)
    if norm.training and norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        _track(norm, mean.detach(), var.detach() * (total / (total - 1)))
    shape = [1, channels] + [1] * (x.dim() - 2)
    scale = torch.rsqrt(var + norm.eps)
    shift = -mean * scale
    if norm.affine:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    return (values * scale.view(shape) + shift.view(shape)).to(x.dtype)


def _track(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    part: float | Tensor = norm.momentum if norm.momentum is not None else 0.0
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            part = 1.0 / float(norm.num_batches_tracked)
    for running, now in ((norm.running_mean, mean), (norm.running_var, variance)):
        if running is not None:
            running.lerp_(now.to(running.dtype), part)
