"""The training loop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from congruence.core import check, ranks, rng
from congruence.distiller.distiller import Distiller
from congruence.training import setup
from congruence.training.distributed import join_process_group, pick_device
from congruence.training.filling import filled
from congruence.training.lost_ranks import LostRanks
from congruence.training.modes import arranged, settled
from congruence.training.options import FitOptions
from congruence.training.result import FitResult
from congruence.training.run import Run
from congruence.training.sharding import refuse_with_shards
from congruence.training.step import train_step
from congruence.training.sync_norms import synchronised


def fit(
    distiller: Distiller,
    train_loader: Iterable[Any],
    val_loader: Iterable[Any] | None = None,
    options: FitOptions | None = None,
    *,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    scheduler: Any = None,
) -> FitResult:
    """Train the students of a distiller.

    Args:
        distiller: the distiller with its students and terms.
        train_loader: a `congruence.data.loader` for exact resuming within an epoch. Any other loader with a length
            works and resumes at epoch ends. An iterable without a length needs `max_steps`.
        val_loader: chooses the best epoch; without one (and without `evaluate`) the last is the best.
        options: how to run; `FitOptions(epochs=...)` at least.
        optimizer: an optimizer, or several, over `distiller.parameter_groups()`, used instead of the options'.
        scheduler: a torch scheduler over that optimizer, stepped once each epoch, used instead of the options'
            schedule.

    Students that are in training mode keep the modes of their submodules (frozen batch norms stay frozen). On several
    ranks, loaders of `congruence.data` divide the samples; other loaders need a DistributedSampler.

    Returns:
        FitResult: the best and last validation numbers and the student's file. The students themselves end with the
            weights of the last epoch.

    Raises:
        ValueError: before the first step, for arguments that cannot work.
        NonFiniteLossError: with step and term, if a loss is not finite.
        LostRankError: with its name, if another rank has failed, was killed or does not answer.
        SystemExit: with code 0 after SIGTERM, once everything is saved.

    Example:
        >>> import torch, congruence as cg
        >>> images, labels = torch.randn(32, 4), torch.arange(32) % 2
        >>> distiller = cg.Distiller(torch.nn.Linear(4, 2), torch.nn.Linear(4, 2), ["ce", "kd"], example=images[:2])
        >>> data = cg.data.loader(torch.utils.data.TensorDataset(images, labels), batch_size=8)
        >>> result = cg.fit(distiller, data, data, cg.FitOptions(epochs=2))
        >>> result.steps, sorted(result.last)
        (8, ['accuracy', 'loss'])
    """
    if not isinstance(distiller, Distiller):
        check.fail("fit", "distiller", "a Distiller", type(distiller).__name__)
    if not isinstance(options, FitOptions):
        check.fail("fit", "options", "FitOptions(epochs=...) or FitOptions(max_steps=...)", repr(options))
    device = pick_device(options.device)
    join_process_group(device)
    with LostRanks(options.rank_timeout) as lost:
        return _fitted(distiller, train_loader, val_loader, options, device, optimizer, scheduler, lost)


def _fitted(
    distiller: Distiller,
    train_loader: Iterable[Any],
    val_loader: Iterable[Any] | None,
    options: FitOptions,
    device: torch.device,
    optimizer: Optimizer | Sequence[Optimizer] | None,
    scheduler: Any,
    lost: LostRanks,
) -> FitResult:
    rng.seed_everything(options.seed + ranks.rank())  # each rank draws its own random masks for its own rows
    refuse_with_shards(distiller, options, setup.as_list(optimizer))
    options = settled(options, distiller, device)
    # The run is closed before all of this is undone.
    with (
        arranged(distiller, options, device, setup.as_list(optimizer)),
        filled(distiller),
        Run(distiller, train_loader, val_loader, options, device, optimizer, scheduler) as run,
        synchronised([distiller.students, distiller.methods], options.sync_batch_norm),
        lost.in_steps(lambda: run.position.step),
    ):
        if run.ended_before:
            return run.result()
        while not run.complete:
            run.begin_epoch()
            for batches in run.groups():
                run.optimization.rates.set(run.midpoint)
                train_step(run.objective, batches, run.optimization, run.recorder, options, run.position.step)
                run.after_step()
            run.end_epoch()
        return run.finish()
