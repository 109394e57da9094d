"""Detects layers of a student that pass no gradient on, so that nothing before them is trained.

Dynamic int8 layers are an example. They raise no error: the loss still has a gradient, for the layers after them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from congruence.core import check
from congruence.core.devices import row_count, take_rows, tensors
from congruence.core.graph import leads_to, leaves
from congruence.core.ranks import rank
from congruence.distiller.as_found import as_found
from congruence.distiller.bindings import Binding
from congruence.distiller.captured import Captured
from congruence.methods.method import Clock
from congruence.methods.term import Term
from congruence.models.forward import dry_forward
from congruence.models.layers import Layers, class_name
from congruence.models.parameters import is_quantized
from congruence.models.sharded import is_group
from congruence.models.taps import Taps
from congruence.models.untaught import share, whole_parts

LOG = logging.getLogger("congruence")
_FEW = 2  # samples of the batch on which the layers are examined


@dataclass(frozen=True)
class Cut:
    """A layer whose output passes no gradient on to its input, and the parameters before it.

    Attributes:
        layer: the layer's path.
        module: the layer.
        before: the ids of the parameters whose gradient would have to go through it.
    """

    layer: str
    module: nn.Module
    before: frozenset[int]


class GradientCuts:
    """Checks once, in a training batch, which parameters of the students get a gradient from the terms."""

    def __init__(self) -> None:
        self._looked = False

    def look(
        self,
        captured: Captured,
        bindings: Sequence[Binding],
        taps: Mapping[str, Taps],
        terms: Sequence[Term],
        clock: Clock,
    ) -> None:
        """Warn of layers that cut the gradient to parameters that no term reaches on another way.

        Nothing is checked while a term has not begun yet, or with micro-batches, which have no graph to follow.

        Args:
            captured: the captured batch, with its graphs.
            bindings: bindings of the terms that train the students now.
            taps: the models' taps.
            terms: all terms.
            clock: the time of the batch.

        Raises:
            ValueError: if a student gets no gradient at all because of such a layer.
        """
        if self._looked or captured.micro_batch is not None or any(term.start_epoch > clock.epoch for term in terms):
            return
        read = captured.tensors
        paths = {(b.models[model], path) for b in bindings for (model, _), each in b.paths.items() for path in each}
        for name, of_student in taps.items():
            keys = [key for key in read if key[0] == name and (name, key[2]) in paths]
            if keys and name not in captured.teachers:
                reached = {id(leaf) for leaf in leaves([read[key] for key in keys])}
                _look(name, of_student.module(""), reached, captured.given(name, keys[0][1]))
        self._looked = True


def _look(name: str, student: nn.Module, reached: set[int], inputs: Any) -> None:
    """Warn of one student's layers that cut the gradient."""
    trained = {inner: p for inner, p in student.named_parameters() if p.requires_grad}
    left = {inner: id(p) for inner, p in trained.items() if id(p) not in reached}
    # Not every rank may get here; a norm over all ranks would make them wait for each other.
    if not left or any(isinstance(part, nn.SyncBatchNorm) or is_group(part) for part in student.modules()):
        return
    cuts = [cut for cut in _cuts_of(student, inputs, name) if not cut.before.isdisjoint(left.values())]
    if not cuts:
        return
    lost = [inner for inner, each in left.items() if any(each in cut.before for cut in cuts)]
    where = ", ".join(f"'{cut.layer}' ({_kind(cut.module)})" for cut in cuts)
    goes = "passes" if len(cuts) == 1 else "pass"
    what = share(student, whole_parts(student, lost), lost)
    if any(is_quantized(cut.module) for cut in cuts):
        way = "train in floating point and quantise afterwards, or quantise the weights alone"
    else:
        way = "its forward detaches its input or runs without gradient, intentionally or not"
    text = f"The {name}'s layer {where} {goes} no gradient on to its input, so that no term trains {what}: {way}."
    if len(left) == len(trained):
        raise ValueError(f"`Distiller`: the terms give the {name} no gradient. {text}")
    if rank() == 0:
        LOG.warning("%s", text)


def _cuts_of(student: nn.Module, inputs: Any, name: str) -> list[Cut]:
    """Return the layers that cut the gradient; none if the student fails on a few samples, as may be harmless."""
    count = row_count(inputs)
    try:
        with as_found(student):  # on copies of its buffers: the batch's own graph has saved them
            return gradient_cuts(student, inputs if count is None else take_rows(inputs, slice(_FEW), count), name=name)
    except Exception as error:  # the user's model may raise anything
        LOG.debug("Could not check whether a layer of the %s cuts the gradient: %s", name, check.sentence(error))
        return []


def gradient_cuts(model: nn.Module, example: Any, *, name: str = "student") -> list[Cut]:
    """Return the innermost layers that pass no gradient on, found by a dry run in training mode.

    Example:
        >>> import torch
        >>> class Still(nn.Module):
        ...     def forward(self, x):
        ...         return x.detach()
        >>> model = nn.Sequential(nn.Linear(3, 2), Still(), nn.Linear(2, 2))
        >>> [cut.layer for cut in gradient_cuts(model, torch.ones(4, 3))]
        ['1']
    """
    layers = Layers(model, name)
    found: dict[str, Cut] = {}

    def watch(layer: str, module: nn.Module) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            entered = [tensor for tensor in tensors([args, kwargs]) if tensor.requires_grad]
            left = [tensor for tensor in tensors(output) if tensor.is_floating_point()]
            if entered and left and not leads_to(left, entered):
                before = frozenset(id(leaf) for leaf in leaves(entered))
                found[layer] = Cut(layer, module, before | (found[layer].before if layer in found else frozenset()))

        return module.register_forward_hook(hook, with_kwargs=True)

    with contextlib.ExitStack() as stack:
        for layer, module in layers.reachable().items():
            stack.callback(watch(layer, module).remove)
        dry_forward(layers, example, training=True, gradients=True)
    return [cut for cut in found.values() if not _any_inside(cut.layer, found)]


def _any_inside(layer: str, others: Iterable[str]) -> bool:
    return any(other != layer and other.startswith(f"{layer}." if layer else "") for other in others)


def _kind(module: nn.Module) -> str:
    return f"{class_name(module)}{', quantised' if is_quantized(module) else ''}"
