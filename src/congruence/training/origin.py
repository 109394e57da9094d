"""Where a loss that is not finite began: in the inputs, the teacher, a student, a term, or the gradient alone.

Every step sums each tensor that the terms read, and leaves the sums on the device; NaN and infinity show in them. They
are read only once a loss or a gradient is not finite. A sum is the cheapest test that shows both: on a CPU it takes
half the time of the extremes, and a twentieth of that of `isfinite` or a norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from congruence.core.inputs import STUDENT, TEACHER
from congruence.core.later import Later, entries
from congruence.distiller.captured import Captured
from congruence.models.teacher import called

INPUTS = "inputs"


class Place(NamedTuple):
    """A tensor of a step: `part` is "inputs" or the name of a teacher or student, `what` says which tensor of it."""

    part: str
    what: str


Sums = Mapping[tuple[Place, ...], Tensor]  # [K] for K places


@torch.no_grad()
def sums_of(captured: Captured) -> dict[tuple[Place, ...], Tensor]:
    """Return the sums of the floating inputs and of all tapped tensors, without waiting for their device."""
    places: list[Place] = []
    sums: list[Tensor] = []
    for place, tensor in _tensors(captured):
        if tensor.is_floating_point() and tensor.layout is torch.strided:
            places.append(place)
            # In half precision, the sum of finite values could overflow.
            sums.append(tensor.detach().sum(dtype=torch.float32 if tensor.dtype.itemsize < 4 else None))
    return {tuple(places): torch.stack(sums)} if places else {}


def _tensors(captured: Captured) -> Iterator[tuple[Place, Tensor]]:
    for view, inputs in captured.inputs.items():
        for name, tensor in _named(inputs, ""):
            yield Place(INPUTS, ", ".join(filter(None, (name, _of(view))))), tensor
    for (model, view, path), tensor in captured.tensors.items():
        layer = f"layer '{path}'" if path else "output"
        part = called(model) if model in captured.teachers else model
        yield Place(part, " ".join(filter(None, (layer, _of(view))))), tensor


def _of(view: str) -> str:
    return "" if view == "main" else f"of the view '{view}'"


def _named(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in entries(value):
            yield from _named(item, f"{name}[{key!r}]")
    elif isinstance(value, Later) and value.is_made:
        yield from _named(value.made(), name)
    elif isinstance(value, tuple | list):
        for key, item in enumerate(value):
            yield from _named(item, f"{name}[{key}]")


def began(found: Mapping[Place, float]) -> tuple[str, str]:
    """Describe where a non-finite value first appeared, and what to try.

    The place is "" if all tensors that the terms read were finite. NaN takes precedence over infinity, which may mark a
    masked class, and inputs over the models after them.

    Example:
        >>> began({Place("inputs", ""): 1.0, Place("teacher", "layer 'fc'"): math.nan, Place("s", "output"): 2.0})[0]
        "the teacher: its layer 'fc' gave NaN, of inputs that are finite"
    """
    usual, loader = "try a lower learning rate, `gradient_clip`, or a smaller weight", "check what the loader returns"
    nan, infinite = ([place for place, value in found.items() if bad(value)] for bad in (math.isnan, math.isinf))
    torn, endless = ([place.what for place in places if place.part == INPUTS] for places in (nan, infinite))
    if torn:
        return f"{_inputs(torn)}, which held NaN", loader
    models = [place for places in (nan, infinite) for place in places if place.part != INPUTS]
    if not models:
        return (f"{_inputs(endless)}, which held an infinity", loader) if endless else ("", usual)
    gave = "gave NaN" if models[0] in nan else "gave an infinity"
    models = [place for place in models if (place in nan) == (models[0] in nan)]
    parts = dict.fromkeys(place.part for place in models)
    sides = "; ".join(_model(part, [place.what for place in models if place.part == part]) for part in parts)
    if endless:  # an infinity may be an intended mask
        return f"{_inputs(endless)}, which held an infinity, or in {sides} {gave}", loader
    of_teachers = all(part.startswith(TEACHER) for part in parts)
    advice = (
        f"check what {'the teacher' if TEACHER in parts else 'it'} returns for such samples (a row that is all "
        f"padding is "
        "NaN in an attention layer, and half precision may overflow)"
    )
    return f"{sides} {gave}, of inputs that are finite", advice if of_teachers else f"{usual}, or {advice}"


def _inputs(named: Sequence[str]) -> str:
    return " ".join(filter(None, ("the inputs", "; ".join(filter(None, named)))))


def _model(name: str, layers: Sequence[str]) -> str:
    known = name in (TEACHER, STUDENT) or name.startswith(f"{TEACHER} '")
    return f"the {name if known else f'student {name!r}'}: its {' and its '.join(layers)}"
