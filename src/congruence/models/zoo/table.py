"""The table of built-in models."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import nn

from congruence.core import check
from congruence.models.zoo.cnn3 import Cnn3
from congruence.models.zoo.resnet import cifar_resnet, resnet

_OPTIONS = {"classes": check.COUNT, "in_channels": check.COUNT, "width": check.COUNT}
_OPTIONS |= {"embedding_dim": check.Real(low=1, closed="low", integer=True, optional=True)}
_OPTIONS |= {"keep": check.Real(low=1, high=3, closed="both", integer=True, optional=True)}


@dataclass(frozen=True)
class ZooEntry:
    """One model: how it is made, what it is, and its size for `classes` outputs and 3 channels.

    Attributes:
        factory: makes it from `classes`, `in_channels` and its own options.
        description: one line.
        parameters: how many the structure has.
        classes: for which `parameters` are counted.
    """

    factory: Callable[..., nn.Module]
    description: str
    parameters: int
    classes: int


def _cifar(depth: int, parameters: int, *, wide: bool = False) -> ZooEntry:
    widths = "64-128-256" if wide else "16-32-64"
    return ZooEntry(
        functools.partial(cifar_resnet, depth, wide=wide),
        f"CIFAR ResNet of {depth} layers, widths {widths}",
        parameters,
        classes=100,
    )


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
        "resnet18": ZooEntry(
            functools.partial(resnet, (2, 2, 2, 2)),
            "ResNet-18 for small images; width=32 halves it",
            11_173_962,
            classes=10,
        ),
        "resnet34": ZooEntry(
            functools.partial(resnet, (3, 4, 6, 3)), "ResNet-34 for small images", 21_282_122, classes=10
        ),
        "cnn3": ZooEntry(Cnn3, "three convolutions and a 64-d embedding: the retrieval student", 15_050, classes=10),
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
        in_channels: of the images, 1 or 3.
        options: `embedding_dim` for every model; `width` for "cnn3", "resnet18" and "resnet34"; `keep` for "cnn3".

    Returns:
        A module from images [B, in_channels, H, W], 8×8 or larger, to logits [B, classes], with the attribute
        `embedding_dim` (the width of what enters its last layer `fc`).

    Raises:
        ValueError: for a name, an option or a value that does not exist.

    Example:
        >>> build("resnet8", classes=10, in_channels=1).embedding_dim
        64
    """
    if name not in ZOO:
        raise ValueError(f"There is no model {name!r} in the zoo.{check.near(str(name), ZOO)} It has {', '.join(ZOO)}.")
    factory = ZOO[name].factory
    known = set(inspect.signature(factory).parameters) - {"depth", "wide", "blocks"}
    for option in options:
        if option not in known:
            offered = ", ".join(sorted(known))
            raise ValueError(
                f"The model {name!r} has no option '{option}'.{check.near(option, known)} It has {offered}."
            )
    values = {"classes": classes, "in_channels": in_channels, **options}
    check.hyperparameters("build", _OPTIONS, **values)
    return factory(**values)
