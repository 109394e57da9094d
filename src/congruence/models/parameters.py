"""Facts about a model's parameters."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from congruence.core import check
from congruence.models.sharded import is_shard

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, shared ones counted once.

    Example:
        >>> count_parameters(nn.Linear(3, 2))
        8
    """
    return sum(parameter.numel() for parameter in model.parameters())


def check_fits(function: str, argument: str, got: object, size: float) -> None:
    """Refuse weights that this machine's memory cannot hold, before any are made.

    Args:
        function: whose argument says their number.
        argument: its name.
        got: its value.
        size: of the weights, in bytes.

    Raises:
        ValueError: with both sizes.

    Example:
        >>> check_fits("build", "width", 10**9, 1e18)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: `build`: `width` must be of weights that fit into this machine's ... GB, got 1000000000.
    """
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # a system that does not say
        return
    if size > memory:
        check.fail(function, argument, f"of weights that fit into this machine's {memory / 1e9:,.0f} GB", got)


def shares_parameters(first: nn.Module, second: nn.Module) -> bool:
    """Whether the two models have a parameter in common, or two parameters that lie in the same memory.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> shares_parameters(nn.Sequential(layer), layer), shares_parameters(nn.Linear(3, 2), layer)
        (True, False)
    """
    return not _all_places(first.parameters()).isdisjoint(_all_places(second.parameters()))


def _all_places(parameters: Iterable[nn.Parameter]) -> set[object]:
    parameters = list(parameters)
    storages = [place for p in parameters if not p.is_meta for place in _places(p)]
    return {id(p) for p in parameters} | {storage for storage in storages if storage[1] != 0}


def common_parameters(first: nn.Module, second: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a model that are another's, too, by their names in the first.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> list(common_parameters(nn.Sequential(layer), layer))
        ['0.weight', '0.bias']
    """
    theirs = {id(parameter) for parameter in second.parameters()}
    return {name: each for name, each in first.named_parameters() if id(each) in theirs}


def shares_frozen_alone(first: nn.Module, second: nn.Module) -> bool:
    """Whether all that two models have in common are whole parameters that no training moves.

    Example:
        >>> one, other = nn.Linear(3, 2), nn.Linear(3, 2)
        >>> other.weight = one.weight.requires_grad_(False)
        >>> shares_frozen_alone(one, other), shares_frozen_alone(one, one)
        (True, False)
    """
    common = common_parameters(first, second)
    if any(each.requires_grad for each in common.values()):
        return False
    known = {id(each) for each in common.values()}
    sides = first, second
    rests = [_all_places(each for each in side.parameters() if id(each) not in known) for side in sides]
    wholes = [_all_places(side.parameters()) for side in sides]
    return rests[0].isdisjoint(wholes[1]) and rests[1].isdisjoint(wholes[0])


def _places(tensor: Tensor) -> list[tuple[torch.device, int]]:
    """Return where a tensor lies in memory; one that is made of others (a quantized weight) lies where they do."""
    made_of: Any = tensor
    if is_shard(tensor):
        return _places(made_of.to_local())
    if is_traceable_wrapper_subclass(made_of):
        names = made_of.__tensor_flatten__()[0]
        return [place for name in names for place in _places(getattr(tensor, name))]
    try:
        return [(tensor.device, tensor.untyped_storage().data_ptr())]
    except (RuntimeError, NotImplementedError):  # it has no memory of its own: only its identity tells
        return []


def is_quantized(model: nn.Module) -> bool:
    """Whether a part of a model is quantised: its class is one of torch's for that, or a weight is made of others.

    Example:
        >>> is_quantized(nn.Linear(3, 2))
        False
    """
    held = (*model.parameters(), *model.buffers())
    of_torch = any(type(part).__module__.startswith("torch.ao.nn.") for part in model.modules())
    return of_torch or not all(map(is_plain, held))


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has numbers of its own, not made of other tensors as quantised ones are.

    Example:
        >>> is_plain(torch.ones(2))
        True
    """
    made_of: object = tensor
    if is_shard(tensor):
        return is_plain(made_of.to_local())  # type: ignore[attr-defined]
    return not is_traceable_wrapper_subclass(made_of) and not tensor.is_quantized


def bits(tensor: Tensor) -> int | None:
    """Return the sum of all bits of a tensor as integers, which no order of summation changes; None if it has none.

    Versions do not tell that weights were moved: fused optimizers count none. Of a sharded tensor it is this rank's.

    Example:
        >>> bits(torch.zeros(3)), bits(torch.tensor([1.0, 0.0])) == bits(torch.tensor([1.0, 1.0]))
        (0, False)
    """
    made_of: Any = tensor
    if is_shard(tensor):
        return bits(made_of.to_local())
    if is_traceable_wrapper_subclass(made_of):
        sums = [bits(getattr(tensor, name)) for name in made_of.__tensor_flatten__()[0]]
        return None if None in sums else sum(each for each in sums if each is not None)
    if tensor.is_meta:
        return None
    own = tensor.detach()
    flat = (torch.view_as_real(own) if own.is_complex() else own).reshape(-1).contiguous()
    try:
        return int(flat.view(_INTEGERS[flat.element_size()]).sum(dtype=torch.int64))
    except (RuntimeError, NotImplementedError):  # it has no memory of its own
        return None
