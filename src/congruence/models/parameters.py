"""Facts about a model's parameters."""

from __future__ import annotations

from torch import nn


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, shared ones counted once.

    Example:
        >>> count_parameters(nn.Linear(3, 2))
        8
    """
    return sum(parameter.numel() for parameter in model.parameters())


def shares_parameters(first: nn.Module, second: nn.Module) -> bool:
    """Whether the two models have a parameter in common, or two parameters that lie in the same memory.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> shares_parameters(nn.Sequential(layer), layer), shares_parameters(nn.Linear(3, 2), layer)
        (True, False)
    """

    def places(model: nn.Module) -> set[object]:
        parameters = list(model.parameters())
        storages = ((p.device, p.untyped_storage().data_ptr()) for p in parameters if not p.is_meta)
        return {id(p) for p in parameters} | {storage for storage in storages if storage[1] != 0}

    return not places(first).isdisjoint(places(second))
