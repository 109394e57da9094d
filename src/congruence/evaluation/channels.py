"""Runs a model with the weights of its convolutions channels-last while it is measured, if that is faster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from congruence.models.memory_order import held_last, same_in_either_order

CPU_BATCH, DEVICE_BATCH = 50, 100  # the fastest an image on a processor were 32 to 64 (cnn3, resnet8, resnet20)


def batch_of(device: torch.device | None) -> int:
    """Return the batch size for measuring a model."""
    return CPU_BATCH if device is None or device.type == "cpu" else DEVICE_BATCH


def channels_last(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Store the weights of two-dimensional convolutions with channels last during a block; no value changes.

    Afterwards each weight is back in its original memory.

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
    """Whether a model gives the same outputs with channels last, on an example over which `read` runs it."""
    return same_in_either_order(_weights(module), read)


def _weights(module: nn.Module) -> list[Tensor]:
    """Return the convolutions' weights, each once."""
    weights = [part.weight for part in module.modules() if isinstance(part, nn.Conv2d)]
    return list({id(weight): weight for weight in weights}.values())
