"""Folds batch norms in evaluation mode into the layer before them, if a traced forward proves that this is safe.

layer: y = W x + b, norm: z = g (y − m) / √(v + ε) + s  ⟹  z = (g / √(v + ε)) W x + (g (b − m) / √(v + ε) + s)
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from congruence.core.devices import on_tensors, tensors
from congruence.models.forward import call

# What each layer may be folded with, and how many dimensions its output then has: the norm's channels are the second.
_NORMS: dict[type[nn.Module], tuple[type[nn.Module], int]] = {
    nn.Linear: (nn.BatchNorm1d, 2),
    nn.Conv1d: (nn.BatchNorm1d, 3),
    nn.Conv2d: (nn.BatchNorm2d, 4),
    nn.Conv3d: (nn.BatchNorm3d, 5),
}
Tapped = Collection[tuple[str, str]]  # (module, "input" or "output")


def fold_batch_norms(model: nn.Module, tapped: Tapped, example: Any) -> int:
    """Fold, in place, what can be folded to the same values up to rounding; the norm becomes an `nn.Identity`.

    A copy of the model runs once on tensors with the example's shapes but without values, on which any dependence on
    values raises. Every operation is recorded. A layer and a batch norm are folded if only the norm reads the layer's
    output, both run once, and their weights are not used elsewhere. This is valid for inputs of these shapes. A model
    that cannot run like this, or has hooks, is left unchanged.

    Args:
        model: the model, in evaluation mode.
        tapped: modules whose input or output is read: a pair with a tap in between is not folded.
        example: inputs with the shapes of later inputs, and any number of samples.

    Returns:
        The number of folded batch norms.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
        >>> fold_batch_norms(model, tapped=(), example=torch.ones(1, 3, 5, 5)), model[1]
        (1, Identity())
    """
    parts = dict(model.named_modules())
    if not any(isinstance(part, _BatchNorm) for part in parts.values()):
        return 0
    if any(part._forward_hooks or part._forward_pre_hooks for part in parts.values()):
        return 0
    try:
        walk = _Walk(copy.deepcopy(model).to("meta"), on_tensors(lambda tensor: tensor.to("meta"), example))
    except Exception:  # whatever a forward raises that asks for values
        return 0
    pairs = walk.pairs(set(tapped))
    for layer, norm in pairs:
        _fold(parts[layer], parts[norm])
        parent, _, name = norm.rpartition(".")
        setattr(parts[parent], name, nn.Identity())
    return len(pairs)


class _Walk(TorchDispatchMode):
    """One forward, and in which modules each tensor was used."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()
        self.parts = dict(model.named_modules())
        self.entered: dict[str, list[Any]] = {}
        self.left: dict[str, list[Any]] = {}
        self._inside = [""]
        self._uses: dict[int, list[str]] = {}
        self._kept: list[Any] = []  # all of them: the id of one that is gone would be another's
        for path, part in self.parts.items():
            part.register_forward_pre_hook(self._entering(path), with_kwargs=True)
            part.register_forward_hook(self._leaving(path))
        with torch.no_grad(), self:
            self.output = call(model, inputs)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tensors((args, kwargs or {})):
            self._uses.setdefault(id(tensor), []).append(self._inside[-1])
        result = func(*args, **(kwargs or {}))
        self._kept.append((args, kwargs, result))
        return result

    def _entering(self, path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._inside.append(path)
            self.entered.setdefault(path, []).append((args, kwargs))

        return hook

    def _leaving(self, path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._inside.pop()
            self.left.setdefault(path, []).append(output)

        return hook

    def pairs(self, tapped: set[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return the layers and the norms that can be folded, by path."""
        sides = {"input": self.entered, "output": self.left}
        read = {id(each) for path, side in tapped for each in tensors(sides[side].get(path, []))}
        read |= {id(each) for each in tensors([self.output])}
        pairs = []
        for path, part in self.parts.items():
            given = self.left.get(path, [])
            fitting = _NORMS.get(type(part))
            if fitting is None or len(given) != 1 or not isinstance(given[0], Tensor) or id(given[0]) in read:
                continue
            users = self._uses.get(id(given[0]), [])
            norm = self.parts[users[0]] if len(users) == 1 else None
            if type(norm) is not fitting[0] or not self._evaluates(norm) or given[0].dim() != fitting[1]:
                continue
            if self._alone(path, part) and self._alone(users[0], norm):
                pairs.append((path, users[0]))
        return pairs

    def _evaluates(self, norm: nn.Module) -> bool:
        return isinstance(norm, _BatchNorm) and not norm.training and norm.running_mean is not None

    def _alone(self, path: str, part: nn.Module) -> bool:
        """Whether a module ran once and its tensors were used in it alone."""
        own = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        return len(self.left[path]) == 1 and all(set(self._uses.get(id(each), [path])) == {path} for each in own)


def _fold(layer: Any, norm: Any) -> None:
    mean, scale = norm.running_mean, torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    bias = -mean if layer.bias is None else layer.bias - mean
    shifted = bias * scale if norm.bias is None else bias * scale + norm.bias
    weight = layer.weight * scale.view(-1, *[1] * (layer.weight.dim() - 1))
    layer.weight, layer.bias = (nn.Parameter(each.detach(), requires_grad=False) for each in (weight, shifted))
