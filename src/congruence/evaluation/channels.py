"""How a model runs while it is measured: its convolutions' weights with their channels last, where that is faster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from congruence.models.memory_order import held_last, same_in_either_order

CPU_BATCH, DEVICE_BATCH = 50, 100  # the fastest an image on a processor were 32 to 64 (cnn3, resnet8, resnet20)


def batch_of(device: torch.device | None) -> int:
    """Return how many images a model is given at a time while it is measured."""
    return CPU_BATCH if device is None or device.type == "cpu" else DEVICE_BATCH


def channels_last(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Hold the weights of two-dimensional convolutions with their channels last; no value changes.

    Afterwards each weight has the very memory that it had before.

    Example:
        >>> layer = nn.Conv2d(2, 2, 3)
        >>> with channels_last(layer):
        ...     print(layer.weight.is_contiguous(), layer(torch.ones(1, 2, 4, 4)).is_contiguous())
        False False
        >>> layer.weight.is_contiguous()
        True
    """
    return held_last(_weights(module))


def reads_alike(module: nn.Module, read: Callable[[], Mapping[str, Tensor]]) -> bool:
    """Whether a model says the same with its channels last, on an example that `read` runs it over."""
    return same_in_either_order(_weights(module), read)


def _weights(module: nn.Module) -> list[Tensor]:
    """Return the convolutions' weights, each once."""
    weights = [part.weight for part in module.modules() if isinstance(part, nn.Conv2d)]
    return list({id(weight): weight for weight in weights}.values())
