"""A model without its adapters, as a teacher of the model with them; frozen weights are shared in memory."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from congruence.core import check
from congruence.models.layers import unwrap


def without_adapters(model: nn.Module) -> nn.Module:
    """Return the base of a model with peft adapters, as it computes with the adapters switched off.

    It has separate modules, and so its own mode, but shares the frozen parameters with the model, so that they take no
    extra memory. Trainable parameters and buffers are copied as they are now. It can therefore teach the model:
    training the model does not change it.

    Args:
        model: a `PeftModel`, or a model with peft's layers in it, as `add_adapter` of transformers makes.

    Raises:
        ValueError: for a model without adapters, or one whose adapters are merged into its weights.

    Shape:
        Inputs and outputs as in the base model.

    Example:
        >>> without_adapters(nn.Linear(2, 2))
        Traceback (most recent call last):
        ValueError: `without_adapters`: `model` must be a model with adapters of peft, got Linear without.
    """
    inner: Any = unwrap(model)
    layers = [part for part in inner.modules() if _is_adapter(part)]
    if not layers and not hasattr(inner, "peft_config"):
        check.fail("without_adapters", "model", "a model with adapters of peft", f"{type(inner).__name__} without")
    if any(getattr(part, "merged", False) is True for part in layers):
        raise ValueError(
            "`without_adapters`: the adapters are merged into the weights, whose base is gone: call unmerge_adapter()."
        )
    frozen = {id(each): each for each in inner.parameters() if not each.requires_grad}
    twin: Any = copy.deepcopy(inner, frozen)
    base: nn.Module = twin.get_base_model() if hasattr(twin, "get_base_model") else twin
    _take_out(base)
    return base


def _is_adapter(part: nn.Module) -> bool:
    return _names(part) & {"BaseTunerLayer", "AuxiliaryTrainingWrapper"} != set()


def _names(part: nn.Module) -> set[str]:
    return {base.__name__ for base in type(part).__mro__ if base.__module__.startswith("peft.")}


def _plain(part: Any) -> nn.Module:
    """Return what an adapter stands around: of a part that is trained whole, the one from before."""
    while True:
        names = _names(part)
        if "AuxiliaryTrainingWrapper" in names:
            part = part.original_module
        elif "BaseTunerLayer" in names:
            part = part.get_base_layer()
        else:
            plain: nn.Module = part
            return plain


def _take_out(module: nn.Module) -> None:
    for name, child in module.named_children():
        plain = _plain(child)
        if plain is not child:
            setattr(module, name, plain)
        _take_out(plain)
