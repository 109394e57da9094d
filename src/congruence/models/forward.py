"""Forwards of a model: inputs of any kind, and a dry run that changes neither the model nor the process."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from congruence.core import check, rng
from congruence.core.devices import on_tensors, private, tensors
from congruence.models.evaluating import set_mode
from congruence.models.layers import LayerError, Layers, unwrap
from congruence.models.neutral import unchanged
from congruence.models.sharded import at_rest

_WHOLE = (torch.int32, torch.int64)


def call(model: nn.Module, inputs: Any) -> Any:
    """Run `model` on a tensor (or packed sequences), on a tuple or list of arguments, or on a mapping by keyword.

    A model of sentence-transformers takes a mapping as its only argument and writes into it, so it gets a copy.

    Example:
        >>> call(torch.nn.Bilinear(2, 3, 1), (torch.ones(4, 2), torch.ones(4, 3))).shape
        torch.Size([4, 1])
    """
    if isinstance(inputs, Mapping):
        return model(dict(inputs)) if _takes_mapping(model) else model(**inputs)
    several = isinstance(inputs, (tuple, list)) and not isinstance(inputs, PackedSequence)
    return model(*inputs) if several else model(inputs)


def _takes_mapping(model: nn.Module) -> bool:
    return any(base.__module__.startswith("sentence_transformers.") for base in type(unwrap(model)).__mro__)


def in_own_precision(model: nn.Module, inputs: Any) -> Any:
    """Return inputs with float32 tensors converted to the model's half precision, for example for a bfloat16 teacher.

    Example:
        >>> in_own_precision(nn.Linear(2, 1).bfloat16(), {"x": torch.ones(3, 2)})["x"].dtype
        torch.bfloat16
    """
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point() and p.dim() > 1), torch.float32)
    if kind not in (torch.bfloat16, torch.float16):
        return inputs
    return on_tensors(lambda tensor: tensor.to(kind) if tensor.dtype == torch.float32 else tensor, inputs)


def are_words(inputs: Any) -> bool:
    """Whether inputs hold only tokens, and no other numbers.

    Example:
        >>> are_words({"input_ids": torch.tensor([[2, 3]])}), are_words(torch.ones(2, 3))
        (True, False)
    """
    given = tensors(inputs)
    return bool(given) and not any(tensor.is_floating_point() or tensor.is_complex() for tensor in given)


def version(tensor: Tensor) -> int:
    """How often `tensor` was changed in place; inference tensors, which do not count, give 0."""
    return 0 if tensor.is_inference() else tensor._version


def dry_forward(layers: Layers, example: Any, *, training: bool, gradients: bool = False) -> Any:
    """Run the plain model once; the model, the example and the random generators are restored afterwards.

    What the forward had changed in the model is recorded in `layers.scratch`. A graph is built only with `gradients`.

    Raises:
        ValueError: one sentence with the model's name, the error's text and the example's shapes.
    """
    with contextlib.ExitStack() as stack:
        if layers.compiled():  # hooks must fire, and a graph compiled for a dry run would be compiled again
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(rng.untouched())
        stack.enter_context(unchanged(layers.inner, layers.scratch, parameters=training))
        stack.enter_context(torch.set_grad_enabled(gradients))
        # Re-entrant checkpointing warns that nothing needs gradient, which is so in a dry run.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad=True")
        set_mode(layers.inner, training=training)
        stack.callback(at_rest, layers.inner)
        try:
            return call(layers.inner, private(in_own_precision(layers.inner, _beside(layers.inner, example))))
        except LayerError:
            raise
        except Exception as error:
            text = (" ".join(str(error).split()) or type(error).__name__) + _beyond(error, example)
            raise ValueError(
                f"The {layers.name}'s forward on the example {describe(example)} failed with "
                f"{type(error).__name__}: {text}"
            ) from error


def _beyond(error: Exception, example: Any) -> str:
    """Say how large the numbers of an example are, where one may lie beyond a model's vocabulary or positions."""
    if not isinstance(error, IndexError) or not isinstance(example, Mapping):
        return ""
    whole = {
        name: rows for name, rows in example.items() if isinstance(rows, Tensor) and rows.dtype in _WHOLE and len(rows)
    }
    largest = ", ".join(f"{int(rows.max())} in {name}" for name, rows in whole.items())
    return f" (the largest numbers are {largest}: does its vocabulary reach as far?)" if largest else ""


def _beside(model: nn.Module, example: Any) -> Any:
    """Move the example's tensors to the device of the model's first parameter."""
    first = next(model.parameters(), None)
    return example if first is None or first.is_meta else on_tensors(lambda tensor: tensor.to(first.device), example)


def describe(inputs: Any) -> str:
    """Format the shapes of inputs as "[2, 3, 32, 32]", "([2, 8], [2])" or "{ids: [2, 8]}"."""
    if isinstance(inputs, Tensor):
        return check.shape(inputs)
    if isinstance(inputs, Mapping):
        return "{" + ", ".join(f"{name}: {describe(item)}" for name, item in inputs.items()) + "}"
    if isinstance(inputs, (tuple, list)):
        return "(" + ", ".join(describe(item) for item in inputs) + ")"
    return type(inputs).__name__
