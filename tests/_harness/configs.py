"""Configurations that run in a second, and pictures to run them on."""

from collections.abc import Iterable

import torch

from congruence.config import load_config
from congruence.data import ArrayDataset, Splits


def quick(stages: Iterable[str]) -> list[str]:
    """Overrides that make every stage two steps of eight pictures."""
    keys = ("epochs=1", "max_steps=2", "batch_size=8", "log_every=1", 'device="cpu"')
    return [f"stages.{stage}.train.{key}" for stage in stages for key in keys]


def tiny(name="digits/pkt", *overrides):
    """A shipped recipe on few digits, with very small models, two steps a stage."""
    stages = list(load_config(name).stages)
    models = [f'stages.{stage}.student={{model="resnet8"}}' for stage in stages]
    few = ["data.train_size=200", "data.validation=20", "data.test=40"]
    return load_config(name, [*quick(stages), *models, *few, *overrides])


def pictures(count: int, seed: int, *, side: int = 32, classes: int = 10) -> ArrayDataset:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % 10
    return ArrayDataset(images, labels, classes=classes, mean=[0.5] * 3, std=[0.25] * 3, name="pictures")


def fake(classes: int) -> Splits:
    """Pictures of 16×16, on which the large models of the benchmarks take a second, of 10 of so many classes."""
    return Splits(*(pictures(count, seed, side=16, classes=classes) for seed, count in enumerate((60, 20, 20))))
