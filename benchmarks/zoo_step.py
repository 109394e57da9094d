"""One step of `fit` for a student of the zoo that learns from labels."""

from __future__ import annotations

from collections.abc import Callable

import torch

import congruence as cg
from congruence.core.batch import Batch
from congruence.models import build
from congruence.training.distributed import Objective
from congruence.training.optim import Optimization, make_optimizer
from congruence.training.record import Recorder
from congruence.training.step import train_step

CLASSES, SIDE = 10, 32
CPU = torch.device("cpu")


def student(name: str) -> cg.Distiller:
    """A student of the zoo and cross-entropy, always the same."""
    torch.manual_seed(0)
    model = build(name, classes=CLASSES)
    return cg.Distiller(None, model, ["ce"], example=torch.zeros(2, 3, SIDE, SIDE)).train()


def stepper(distiller: cg.Distiller, options: cg.FitOptions, size: int) -> Callable[[], None]:
    """What takes one step over the same batch of random images."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(size, 3, SIDE, SIDE, generator=generator)
    batch = Batch(images, torch.randint(CLASSES, (size,), generator=generator))
    optimizer = make_optimizer(distiller.parameter_groups(), options.optimizer)
    optimization = Optimization([optimizer], options, None, epochs=1, device=CPU)
    objective, recorder = Objective(distiller), Recorder(None, every=50, device=CPU)
    return lambda: train_step(objective, [batch], optimization, recorder, options, 1)
