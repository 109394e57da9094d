"""How a model runs while it is measured: its convolutions' weights with their channels last, where that is faster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from congruence.models.layers import has_compiled

CPU_BATCH, DEVICE_BATCH = 50, 100  # the fastest an image on a processor were 32 to 64 (cnn3, resnet8, resnet20)
_WIDEST = 128
_CLOSE = 1e-3  # of the largest value: rounding moves an output by some 1e-6 of it, a wrong reading by all of it


def batch_of(device: torch.device | None) -> int:
    """Return how many images a model is given at a time while it is measured."""
    return CPU_BATCH if device is None or device.type == "cpu" else DEVICE_BATCH


def prefers_channels_last(module: nn.Module, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a model is read faster with its channels last: float32 convolutions of few channels, on a processor.

    3×3 convolutions took 0.49 to 0.94 of the time with 16 to 128 channels on maps of 16 or 32 pixels a side, and 1.05
    to 1.9 with 128 to 512 on 8 or 4: networks have few channels on large maps, and many on small ones. Depthwise and
    1×1 convolutions do not decide (MobileNetV2: 0.75).
    """
    convolutions = _convolutions(module)
    return (
        device.type == "cpu"
        and bool(convolutions)
        and all(part.weight.dtype == dtype == torch.float32 for part in convolutions)
        and all(part.in_channels <= _WIDEST for part in convolutions if part.groups == 1 and max(part.kernel_size) > 1)
    )


@contextlib.contextmanager
def channels_last(module: nn.Module) -> Iterator[None]:
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
    before = [(weight, weight.data) for weight in _weights(module)]
    try:
        for weight, data in before:
            weight.data = data.contiguous(memory_format=torch.channels_last)
        yield
    finally:
        for weight, data in before:
            weight.data = data


def reads_alike(module: nn.Module, read: Callable[[], Mapping[str, Tensor]]) -> bool:
    """Whether a model says the same with its channels last, on an example.

    One that views its maps as rows cannot be run so, and one that reads their memory itself would say something else.

    Args:
        module: the model.
        read: runs it over the example.
    """
    with torch.no_grad():
        plain = read()
    try:
        with torch.no_grad(), channels_last(module):
            last = read()
    except Exception:  # what its own code makes of it: the other order of memory alone is to blame
        return False
    return all(_close(plain[name], last[name]) for name in plain)


def _close(plain: Tensor, last: Tensor) -> bool:
    if plain.shape != last.shape or not plain.is_floating_point():
        return False
    largest = float(plain.abs().nan_to_num(0, 0, 0).max()) if plain.numel() else 0.0
    return torch.allclose(plain, last, rtol=_CLOSE, atol=_CLOSE * largest, equal_nan=True)


def _convolutions(module: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    """Return the convolutions over images; none of a compiled model, whose guards look at their weights."""
    if has_compiled(module):
        return []
    return [
        part
        for part in module.modules()
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d)
        and type(part._parameters.get("weight")) is nn.Parameter
        and part.weight.layout is torch.strided
    ]


def _weights(module: nn.Module) -> list[Tensor]:
    """Return the convolutions' weights, each once."""
    return list({id(part.weight): part.weight for part in _convolutions(module)}.values())
