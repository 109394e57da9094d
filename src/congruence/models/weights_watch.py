"""Tells whether a model's weights have changed since they were looked at."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from congruence.models.sharded import is_sharded


class WeightsWatch:
    """A look at a model's parameters and buffers, with which later ones are compared.

    Torch counts writes in a tensor, but for those through `.data`: of these the sizes of the weights tell, for which a
    GPU is waited for.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> watch = WeightsWatch(model)
        >>> model.weight.data += 1
        >>> watch.changed(model, sizes=False), watch.changed(model, sizes=True)
        (False, True)
    """

    def __init__(self, model: nn.Module) -> None:
        self._before = [(tensor, tensor._version) for tensor in state_of(model)]
        self._sizes = _sizes(model)

    def changed(self, model: nn.Module, *, sizes: bool) -> bool:
        """Whether a tensor was replaced or written to since; `sizes`: look for writes through `.data`, too."""
        now = state_of(model)
        same = len(now) == len(self._before) and all(
            tensor is was and tensor._version == version
            for tensor, (was, version) in zip(now, self._before, strict=True)
        )
        return not same or (sizes and _sizes(model) != self._sizes)


def watched(model: nn.Module) -> WeightsWatch | None:
    """Return a look at a model's weights; None where they cannot be watched.

    Of some types (8-bit floating point) a size cannot be taken, and of a sharded model each rank has a part.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> watched(model) is None, watched(model.to(torch.float8_e4m3fn)) is None
        (False, True)
    """
    if is_sharded(model):
        return None
    try:
        return WeightsWatch(model)
    except Exception:  # a type of tensor may raise anything
        return None


def state_of(model: nn.Module) -> list[Tensor]:
    """Return a model's parameters and buffers, as often as they occur in it."""
    tables = [table for part in model.modules() for table in (part._parameters, part._buffers)]
    return [tensor for table in tables for tensor in table.values() if tensor is not None]


def _sizes(model: nn.Module) -> list[float]:
    """Return the sum of the sizes of each floating tensor's numbers."""
    floating = [tensor.detach() for tensor in state_of(model) if tensor.is_floating_point()]
    return torch.stack(list(torch._foreach_norm(floating, 1))).tolist() if floating else []
