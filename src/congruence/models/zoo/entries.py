"""The table of built-in models."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from congruence.core import check
from congruence.models.parameters import check_fits, count_parameters
from congruence.models.zoo.cnn3 import Cnn3
from congruence.models.zoo.mobilenet import MobileNetV2
from congruence.models.zoo.resnet import Bottleneck, cifar_resnet, resnet
from congruence.models.zoo.shufflenet import shufflenet_v1, shufflenet_v2
from congruence.models.zoo.vgg import Vgg
from congruence.models.zoo.wrn import WideResNet

_COMMON: Mapping[str, check.Constraint] = {
    "classes": check.COUNT,
    "in_channels": check.COUNT,
    "embedding_dim": check.Real(low=1, closed="low", integer=True, optional=True),
}
_LARGE = 1000  # an option or a number of classes from which on a model may not fit into memory
_STEM = check.Choice(("small", "imagenet"))


@dataclass(frozen=True)
class ZooEntry:
    """One model: how it is made, what it is, and its size for `classes` outputs and 3 channels.

    Attributes:
        factory: makes it from `classes`, `in_channels`, `embedding_dim` and its own options.
        description: one line.
        parameters: how many the structure has, without options.
        classes: for which `parameters` are counted.
        options: what its own options may be, beside those that every model has.
    """

    factory: Callable[..., nn.Module]
    description: str
    parameters: int
    classes: int
    options: Mapping[str, check.Constraint] = field(default_factory=lambda: MappingProxyType({}))


def _cifar(depth: int, parameters: int, *, wide: bool = False) -> ZooEntry:
    widths = "64-128-256" if wide else "16-32-64"
    return ZooEntry(
        functools.partial(cifar_resnet, depth, wide=wide),
        f"CIFAR ResNet of {depth} layers, widths {widths}",
        parameters,
        classes=100,
    )


def _resnet(depth: int, parameters: int, *structure: Any) -> ZooEntry:
    return ZooEntry(
        functools.partial(resnet, *structure),
        f'ResNet-{depth} for small images; width=32 halves it, stem="imagenet" is that for large ones',
        parameters,
        classes=10,
        options=MappingProxyType({"width": check.COUNT, "stem": _STEM}),
    )


def _wrn(depth: int, factor: int, parameters: int) -> ZooEntry:
    name = f"wide ResNet of {depth} layers, widths {16 * factor}-{32 * factor}-{64 * factor}"
    return ZooEntry(functools.partial(WideResNet, depth, factor), name, parameters, classes=100)


def _vgg(counts: tuple[int, ...], parameters: int) -> ZooEntry:
    layers = sum(counts) + 3  # the name counts the three linear layers, of which the small version keeps one
    return ZooEntry(functools.partial(Vgg, counts), f"VGG-{layers} with batch norm", parameters, classes=100)


# Sizes are those that the structures have. Published to the last digit are: for ImageNet (1000 classes) ResNet-18, -34,
# -50 and MobileNetV2; for CIFAR ResNet-18 and -50. The CIFAR benchmark's tables round to 0.01 million. Both are tested.
ZOO: Mapping[str, ZooEntry] = MappingProxyType(
    {
        "resnet8": _cifar(8, 83_892),
        "resnet14": _cifar(14, 181_108),
        "resnet20": _cifar(20, 278_324),
        "resnet32": _cifar(32, 472_756),
        "resnet44": _cifar(44, 667_188),
        "resnet56": _cifar(56, 861_620),
        "resnet110": _cifar(110, 1_736_564),
        "resnet8x4": _cifar(8, 1_233_540, wide=True),
        "resnet32x4": _cifar(32, 7_433_860, wide=True),
        "resnet18": _resnet(18, 11_173_962, (2, 2, 2, 2)),
        "resnet34": _resnet(34, 21_282_122, (3, 4, 6, 3)),
        "resnet50": _resnet(50, 23_520_842, (3, 4, 6, 3), Bottleneck),
        "wrn16_1": _wrn(16, 1, 180_916),
        "wrn16_2": _wrn(16, 2, 703_284),
        "wrn40_1": _wrn(40, 1, 569_780),
        "wrn40_2": _wrn(40, 2, 2_255_156),
        "vgg8": _vgg((1, 1, 1, 1, 1), 3_965_028),
        "vgg11": _vgg((1, 1, 2, 2, 2), 9_277_284),
        "vgg13": _vgg((2, 2, 2, 2, 2), 9_462_180),
        "vgg16": _vgg((2, 2, 3, 3, 3), 14_774_436),
        "vgg19": _vgg((2, 2, 4, 4, 4), 20_086_692),
        "mobilenetv2": ZooEntry(
            MobileNetV2,
            'MobileNetV2 for small images; width=0.5 halves it, stem="imagenet" is that for large ones',
            2_353_060,
            classes=100,
            options=MappingProxyType({"width": check.Real(low=0.1, closed="low"), "stem": _STEM}),
        ),
        "shufflenetv1": ZooEntry(shufflenet_v1, "ShuffleNetV1 of 3 groups for small images", 949_258, classes=100),
        "shufflenetv2": ZooEntry(shufflenet_v2, "ShuffleNetV2 for small images", 1_355_528, classes=100),
        "cnn3": ZooEntry(
            Cnn3,
            "three convolutions and a 64-d embedding: the retrieval student",
            15_050,
            classes=10,
            options=MappingProxyType(
                {
                    "width": check.COUNT,
                    "keep": check.Real(low=1, high=3, closed="both", integer=True, optional=True),
                }
            ),
        ),
    }
)


def names() -> tuple[str, ...]:
    """Return the names of all models."""
    return tuple(ZOO)


def build(name: str, *, classes: int, in_channels: int = 3, **options: Any) -> nn.Module:
    """Return a freshly initialised model; it depends on torch's generator alone.

    Args:
        name: a row of `ZOO`.
        classes: number of outputs.
        in_channels: image channels, 1 or 3.
        options: `embedding_dim` for every model; `width` and `stem` ("small" or "imagenet") for "resnet18", "resnet34",
            "resnet50" and "mobilenetv2", whose `width` is a factor (0.5); `width` and `keep` for "cnn3".

    Returns:
        A module from images [B, in_channels, H, W], 8×8 or larger, to logits [B, classes], with the attribute
        `embedding_dim` (the width of the input of its last layer `fc`).

    Raises:
        ValueError: for a name, an option or a value that does not exist, or a size that this machine cannot hold.

    Example:
        >>> build("resnet8", classes=10, in_channels=1).embedding_dim
        64
    """
    if name not in ZOO:
        raise ValueError(f"There is no model {name!r} in the zoo.{check.near(str(name), ZOO)} It has {', '.join(ZOO)}.")
    entry = ZOO[name]
    constraints = {**_COMMON, **entry.options}
    for option in options:
        if option not in constraints:
            offered = ", ".join(sorted(constraints))
            raise ValueError(
                f"The model {name!r} has no option '{option}'.{check.near(option, constraints)} It has {offered}."
            )
    values = {"classes": classes, "in_channels": in_channels, **options}
    check.hyperparameters("build", constraints, **values)
    for option, value in values.items():
        if isinstance(value, int | float) and value > _LARGE:
            check_fits("build", option, value, _bytes(entry, values))
    return entry.factory(**values)


def _bytes(entry: ZooEntry, values: Mapping[str, Any]) -> float:
    """Return how many bytes the weights of a model would have, without making any."""
    try:
        with torch.device("meta"):
            return 4.0 * count_parameters(entry.factory(**values))
    except (RuntimeError, TypeError):  # of tensors with more numbers than torch can count
        return math.inf
