"""Configurations that run in a second, and pictures to run them on."""

from collections.abc import Iterable

import torch
from _harness import layouts

from congruence.config import load_config
from congruence.data import ArrayDataset, Splits

# Datasets whose images `fake` stands for, and how wide the large models of a test are.
CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10, "tiny-imagenet": 200}
NARROW = {"resnet18": 8, "resnet34": 8, "resnet50": 8, "mobilenetv2": 0.1}


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


def photographs(folder, root):
    """Write a tree of the layout that a folder of recipes reads; return what its recipes are told of it."""
    if folder == "imagenet":
        layouts.write_classes(root / "train", {"n01": 16, "n02": 16, "n03": 16}, size=(20, 26))
        layouts.write_classes(root / "val", {"n01": 1, "n03": 2}, size=(26, 20))
        return ["data.validation=6", "data.size=64", "data.resize=72"]
    if folder == "msmt17":
        layouts.write_msmt17(root, {0: (12, 2), 1: (12, 2), 4: (12, 2)})
        return ["data.size=[64, 32]"]
    if folder == "faces":
        layouts.write_classes(root, {"ann": 20, "bob": 20, "cy": 20}, size=(20, 20))
        return ["data.size=64"]
    layouts.write_cub200(root, {"Albatross": (12, 2), "Auklet": (12, 2), "Bunting": (12, 2)})
    return ["data.classes=2", "data.size=64", "data.resize=[72, 72]"]
