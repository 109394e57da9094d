"""Forwards of a model: inputs of any kind, and a dry run that leaves the model and the process as they were."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from congruence.core import check, rng
from congruence.models.layers import LayerError, Layers


def call(model: nn.Module, inputs: Any) -> Any:
    """Run `model` on a tensor, on a tuple or list of positional arguments, or on a mapping of keyword arguments.

    Example:
        >>> call(torch.nn.Bilinear(2, 3, 1), (torch.ones(4, 2), torch.ones(4, 3))).shape
        torch.Size([4, 1])
    """
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def version(tensor: Tensor) -> int:
    """How often `tensor` was changed in place; inference tensors, which do not count, give 0."""
    return 0 if tensor.is_inference() else tensor._version


def dry_forward(layers: Layers, example: Any, *, training: bool) -> Any:
    """Run the plain model once without gradient and leave modes, buffers and generators as they were.

    Raises:
        ValueError: one sentence with the model's name, the error's text and the example's shapes.
    """
    with contextlib.ExitStack() as stack:
        if layers.compiled():  # hooks must fire, and a graph compiled for a dry run would be compiled again
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(rng.untouched())
        stack.enter_context(_unchanged(layers.inner))
        stack.enter_context(torch.no_grad())
        # Re-entrant checkpointing warns that nothing needs gradient, which is so in a dry run.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad=True")
        layers.inner.train(training)
        try:
            return call(layers.inner, _beside(layers.inner, example))
        except LayerError:
            raise
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"The {layers.name}'s forward on the example {describe(example)} failed with "
                f"{type(error).__name__}: {text}"
            ) from error


@contextlib.contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for module, name, buffer, copy in buffers:
                module._buffers[name] = buffer
                # Batch norm moves its statistics without counting a version, hence by value; and a needless write
                # would break a graph that saved the buffer.
                if not torch.equal(buffer, copy):
                    buffer.copy_(copy)


def _beside(model: nn.Module, example: Any) -> Any:
    """Move the example's tensors to the device of the model's first parameter."""
    first = next(model.parameters(), None)
    return example if first is None or first.is_meta else _move(example, first.device)


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: _move(item, device) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_move(item, device) for item in value]
    return value


def describe(inputs: Any) -> str:
    """Write the shapes of inputs as "[2, 3, 32, 32]", "([2, 8], [2])" or "{ids: [2, 8]}"."""
    if isinstance(inputs, Tensor):
        return check.shape(inputs)
    if isinstance(inputs, Mapping):
        return "{" + ", ".join(f"{name}: {describe(item)}" for name, item in inputs.items()) + "}"
    if isinstance(inputs, (tuple, list)):
        return "(" + ", ".join(describe(item) for item in inputs) + ")"
    return type(inputs).__name__
