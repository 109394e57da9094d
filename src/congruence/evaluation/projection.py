"""A student's features brought to the teacher's width, by what a user gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.models.evaluating import evaluating

Projection = nn.Module | Tensor | Callable[[Tensor], Tensor]
_ROWS = 4096


@torch.no_grad()
def project(features: Tensor, projection: Any, width: int, *, name: str = "student") -> Tensor:
    """Bring features [N, D] to a width: by a weight [width, D] as a Linear has it, or a function [n, D] → [n, width].

    Args:
        features: [N, D].
        projection: the weight, module or function; a module is run in evaluation mode, where its parameters are.
        width: the teacher's.
        name: of the student, in sentences.

    Raises:
        ValueError: for a projection of another kind, or that gives another shape.

    Example:
        >>> project(torch.ones(3, 2), torch.tensor([[1.0, 2.0]]), 1).tolist()
        [[3.0], [3.0], [3.0]]
    """
    wide = features.shape[1]
    if isinstance(projection, Tensor):
        if tuple(projection.shape) != (width, wide):
            expected = f"of shape [{width}, {wide}] (the teacher's width, the {name}'s)"
            check.fail("compare", "projection", expected, f"a tensor of shape {check.shape(projection)}")
        weight = projection.detach().to(features)
        return features @ weight.T
    if not callable(projection):
        check.fail("compare", "projection", "a weight matrix, a module or a function", type(projection).__name__)
    if not isinstance(projection, nn.Module):
        return _in_parts(projection, features, width, name)
    first = next(projection.parameters(), None)
    with evaluating(projection):
        place = features.device if first is None else first.device
        dtype = features.dtype if first is None or not first.is_floating_point() else first.dtype
        return _in_parts(lambda rows: projection(rows.to(place, dtype)), features, width, name)


def _in_parts(function: Callable[[Tensor], Any], features: Tensor, width: int, name: str) -> Tensor:
    parts = []
    for rows in features.split(_ROWS):
        try:
            given = function(rows)
        except RuntimeError as error:
            reason = (str(error).splitlines() or [""])[0].removesuffix(".")
            got = f"{reason} for features {check.shape(rows)}"
            check.fail("compare", "projection", f"one that takes the {name}'s features", got)
        if not isinstance(given, Tensor) or tuple(given.shape) != (len(rows), width):
            got = f"shape {check.shape(given)}" if isinstance(given, Tensor) else type(given).__name__
            expected = f"one that gives the teacher's width ([{len(rows)}, {width}] of {check.shape(rows)})"
            check.fail("compare", "projection", expected, got)
        parts.append(given.float().cpu())
    return torch.cat(parts)
