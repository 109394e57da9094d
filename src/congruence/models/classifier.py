"""Which layer gives a model's class logits, as one forward shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# What a model may make of its logits and still mean them.
_ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda z: z,
    lambda z: z.log_softmax(1),
    lambda z: z.softmax(1),
    torch.sigmoid,
)


def head_and_logits(linear: str | None, left: Tensor | None, output: Any) -> tuple[str | None, str | None]:
    """Return the Linear layer that ends a model, and the path of its class logits, each None where nothing tells.

    A last Linear of another width than the model's output [B, C] is a gate or a side branch: the output is the logits
    then, as it is where it is something else than the Linear's own values or probabilities of them (two branches added
    up, a scale behind it): what is taught and measured is what the model says.

    Args:
        linear: path of the last Linear to run, None where there is none.
        left: what left it.
        output: the model's.

    Example:
        >>> z = torch.tensor([[1.0, 2.0]])
        >>> head_and_logits("fc", z, z.softmax(1)), head_and_logits("fc", z, 3 * z)
        (('fc', 'fc'), ('fc', 'output'))
        >>> head_and_logits("gate", z, torch.ones(1, 5))
        (None, 'output')
    """
    own = output if isinstance(output, Tensor) and output.dim() == 2 else None
    if linear is None or left is None:
        return None, None if own is None else "output"
    if own is None or left.is_meta:
        return linear, linear
    if left.shape[-1] != own.shape[1]:
        return None, "output"
    left = left.to(own.dtype)
    meant = left.shape == own.shape and any(
        torch.allclose(activation(left), own, rtol=1e-3, equal_nan=True) for activation in _ACTIVATIONS
    )
    return linear, linear if meant else "output"
