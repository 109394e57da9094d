"""Before the first step: what a run needs, made or refused."""

from __future__ import annotations

import hashlib
import logging
import math
import signal
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from congruence.core import ranks, rng
from congruence.engine.batch import unpack
from congruence.engine.distiller import Distiller
from congruence.engine.optim import make_optimizer
from congruence.engine.options import FitOptions
from congruence.engine.rundir import fingerprint

LOG = logging.getLogger("congruence")


def prepare(distiller: Distiller, loader: Any, options: FitOptions, device: torch.device) -> None:
    """Move everything to the device, build what waits for an example, and warn of what changes a loss."""
    distiller.to(device)
    if not distiller.built:
        with rng.untouched():
            first = next(iter(loader.batches(0) if hasattr(loader, "batches") else loader))
        distiller.build(unpack(first, device).inputs)
    relational = [name for name, needs in distiller.needs().items() if needs.scope == "batch"]
    if options.accumulate > 1 and relational:
        size = getattr(loader, "batch_size", "one batch's")
        warnings.warn(
            f"accumulate={options.accumulate} does not enlarge the batch of {', '.join(relational)}: each "
            f"loss sees {size} samples.",
            stacklevel=4,
        )
    for name, layers in distiller.layers().items():
        LOG.info("%s reads %s", name, layers)


def describe(distiller: Distiller, loader: Any, options: FitOptions, batches: int) -> dict[str, Any]:
    """Return what makes a run the run it is, as plain values."""
    shapes = {
        name: str([(key, list(value.shape)) for key, value in module.state_dict().items()])
        for name, module in distiller.students.items()
    }
    own = getattr(loader, "describe", dict)
    return {
        "terms": [term.describe() for term in distiller.terms],
        "students": {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in shapes.items()},
        "teacher": fingerprint(distiller.teacher.module.state_dict()) if distiller.teacher else None,
        "options": options.describe(),
        "data": {"batches": batches, **own()},
        "ranks": ranks.world_size(),
    }


def extent(loader: Iterable[Any], options: FitOptions) -> tuple[int, int, int]:
    """Return steps an epoch, epochs and steps in all."""
    try:
        batches = len(loader)  # type: ignore[arg-type]
    except TypeError:
        if options.max_steps is None:
            raise ValueError(
                "`fit`: `train_loader` must have a length, or `max_steps` be given, got neither."
            ) from None
        return options.max_steps, options.epochs or 1, options.max_steps
    if batches == 0:
        raise ValueError("`fit`: `train_loader` must hold at least one batch, got none: is the dataset empty?")
    per_epoch = math.ceil(batches / options.accumulate)
    steps = options.max_steps or per_epoch * (options.epochs or 1)
    if options.epochs is not None:
        steps = min(steps, per_epoch * options.epochs)
    return per_epoch, math.ceil(steps / per_epoch), steps


def optimizers(
    distiller: Distiller, options: FitOptions, given: Optimizer | Sequence[Optimizer] | None
) -> list[Optimizer]:
    """Return the caller's optimizers, or the options' one."""
    if given is None:
        return [make_optimizer(distiller.parameter_groups(), options.optimizer)]
    return [given] if isinstance(given, Optimizer) else list(given)


def on_sigterm(handler: Any) -> Any:
    """Install a handler in the main thread, the only one that may; return the one before."""
    try:
        return signal.signal(signal.SIGTERM, handler)
    except ValueError:
        return None
