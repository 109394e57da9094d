"""Finds the batch norm that feeds a tapped layer, by the order in which a model's modules are registered."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from congruence.losses.ofd import batch_norm_margin
from congruence.models.layers import Layers, parse


def margin_before(model: nn.Module, path: str, channels: int) -> Tensor:
    """Return the margin [C] of the batch norm whose values a layer holds before a ReLU.

    The path of a batch norm means that batch norm. "input:PATH" of a ReLU means the batch norm before it: the preceding
    module in a `Sequential`; in another block, the last batch norm registered before the ReLU, or the block's k-th one
    for the k-th call of a shared ReLU ("input:block.relu#2"). So the input of a ReLU after a residual sum has the
    margin of the last convolution's batch norm, as in the authors' code; the shortcut is ignored.

    Args:
        model: the teacher.
        path: the tapped layer.
        channels: channels of its map; batch norms of another width are skipped.

    Raises:
        ValueError: if no batch norm is found.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
        >>> margin_before(model, "input:2", 2)
        tensor([-0.7979, -0.7979])
    """
    layers, parsed = Layers(model, "teacher"), parse(path)
    layer = layers.resolve(parsed)
    module = layers.modules[layer]
    norm = _last(module, channels) if parsed.side == "output" else None
    if norm is None and (parsed.side == "input" or not _trained(module)):
        norm = _before(layers, layer, parsed.call, channels)
    if norm is None:
        raise ValueError(
            f"`Overhaul`: no batch norm of {channels} channels feeds the teacher's layer '{path}': tap one, or the "
            f"input of the ReLU after one ('input:PATH'), or give `margins`."
        )
    weight = torch.ones(channels) if norm.weight is None else norm.weight
    bias = torch.zeros(channels) if norm.bias is None else norm.bias
    return batch_norm_margin(weight, bias)


def _trained(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _fits(module: nn.Module, channels: int) -> bool:
    return isinstance(module, _BatchNorm) and module.num_features == channels


def _last(module: nn.Module, channels: int) -> _BatchNorm | None:
    """Return the batch norm that produces a module's output."""
    if isinstance(module, _BatchNorm):
        return module if _fits(module, channels) else None
    children = list(module.children())[::-1]
    if not isinstance(module, nn.Sequential):
        own = [child for child in children if isinstance(child, _BatchNorm) and _fits(child, channels)]
        return own[0] if own else next((norm for child in children if (norm := _last(child, channels))), None)
    return _last_of(children, channels)


def _last_of(children: list[nn.Module], channels: int) -> _BatchNorm | None:
    """Return the last child's batch norm; a child with parameters but no batch norm ends the search."""
    for child in children:
        norm = _last(child, channels)
        if norm is not None or _trained(child):
            return norm
    return None


def _before(layers: Layers, layer: str, call: int | None, channels: int) -> _BatchNorm | None:
    """Return the batch norm that produces a layer's input."""
    while layer:
        parent, _, name = layer.rpartition(".")
        holder = layers.modules[parent]
        siblings = dict(holder.named_children())
        earlier = [siblings[each] for each in list(siblings)[: list(siblings).index(name)]]
        if isinstance(holder, nn.Sequential):
            norm = _last_of(earlier[::-1], channels)
            if norm is not None or any(map(_trained, earlier)):
                return norm
            layer, call = parent, None
            continue
        if call is not None:
            norms = [child for child in siblings.values() if isinstance(child, _BatchNorm)]
            return norms[call - 1] if call <= len(norms) and _fits(norms[call - 1], channels) else None
        fitting = [child for child in earlier if isinstance(child, _BatchNorm) and _fits(child, channels)]
        return fitting[-1] if fitting else None
    return None
