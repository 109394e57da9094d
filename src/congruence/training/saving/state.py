"""A run as plain tensors and values, and back: all that decides the coming steps."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

from congruence.core import ranks, rng
from congruence.core.batch import generators as loader_generators
from congruence.training.distributed import on_first

if TYPE_CHECKING:
    from congruence.training.run import Run

LOG = logging.getLogger("congruence")


def snapshot(run: Run, generators: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the state of a run, with the generators of every rank."""
    return {
        "position": [run.epoch, run.batch, run.step, run.elapsed()],
        "distiller": run.distiller.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
        "scaler": run.scaler.state_dict(),
        "scheduler": run.scheduler.state_dict() if run.scheduler is not None else None,
        "generators": generators,
        "loader": [generator.get_state() for generator in loader_generators(run.train_loader)],
        "recorder": run.recorder.state(),
        "history": run.history,
        "best": run.best.state(),
    }


def restore(run: Run, state: dict[str, Any]) -> None:
    """Put a run back to a snapshot."""
    run.best.load_state(state["best"])  # may refuse the run, before the recorder cuts its file
    run.epoch, run.batch, run.step, run.seconds = state["position"]
    try:
        run.distiller.load_state_dict(state["distiller"])
        for optimizer, saved in zip(run.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"The checkpoint in '{run.options.out}' is of other models or methods: {reason}") from None
    if run.scaler.is_enabled():
        run.scaler.load_state_dict(state["scaler"])
    if run.scheduler is not None:
        run.scheduler.load_state_dict(state["scheduler"])
    rng.set_state(state["generators"][ranks.rank()])
    for generator, kept in zip(loader_generators(run.train_loader), state["loader"], strict=True):
        generator.set_state(kept)
    run.recorder.load_state(state["recorder"])
    run.history = state["history"]
    directory = run.directory
    if directory:
        run.best.states = on_first(lambda: run.best.read(directory))
    LOG.info("Resumed at epoch %d, step %d.", run.epoch, run.step)


def summary(run: Run) -> dict[str, Any]:
    """Return what a finished run writes down."""
    return {
        "status": "finished",
        "epochs": run.epoch,
        "steps": run.step,
        "seconds": run.seconds,
        "best_epoch": run.best.epochs,
        "best": run.best.metrics,
        "last": run.history[-1],
        "torch": torch.__version__,
        "device": str(run.device),
    }
