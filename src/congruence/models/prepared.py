"""A faster copy of a frozen teacher: the same layers, in arithmetic that differs only by rounding."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from congruence.core import check, rng
from congruence.core.devices import on_tensors, tensors, to_device
from congruence.core.numerics import widen
from congruence.models.folding import fold_batch_norms
from congruence.models.layers import has_compiled, is_unflattened, unwrap
from congruence.models.memory_order import native_bfloat16, ordered, prefers_channels_last
from congruence.models.neutral import unchanged
from congruence.models.parameters import is_quantized
from congruence.models.taps import Taps
from congruence.models.weights_watch import WeightsWatch, state_of

LOG = logging.getLogger("congruence")
TOLERANCE = 0.02  # how far a layer may move on the example: bfloat16 has 3 digits, and layers add their roundings up


class Prepared:
    """A faster copy of a teacher, whose layers are read instead of the teacher's.

    Batch norms are folded (`fold_batch_norms`), convolutions have their channels last where that is faster
    (`last`), and with `half` convolutions and linear layers compute in bfloat16; what is read is float32 again.

    Attributes:
        arithmetic: in which the copy differs from the teacher, in words; "" if it does not.
        moved: how far each layer that is read moved on the example, ‖copy − teacher‖ / ‖teacher‖, by path.
    """

    def __init__(self, taps: Taps, device: torch.device, *, half: bool, last: bool) -> None:
        self._weights, self._reads = WeightsWatch(taps.model), 0
        self._shapes = _shapes(taps.example)
        self.taps = copy.deepcopy(taps)
        model = self.taps.model
        if not set(map(id, state_of(taps.model))).isdisjoint(map(id, state_of(model))):
            raise ValueError("its copy shares weights with it")  # a part has a `__deepcopy__` of its own
        folded = fold_batch_norms(model, self.taps.sides(), to_device(taps.example, device))
        ordered(model, last=last)
        self._device, self._folds, self._half = device, folded > 0, half and _halve(model)
        said = {"bfloat16": self._half, f"{folded} batch norms folded": folded, "channels last": last}
        self.arithmetic = ", ".join(what for what, is_so in said.items() if is_so)
        self.moved: dict[str, float] = {}

    def stale(self, model: nn.Module) -> bool:
        """Whether the teacher's weights have changed since, as those of an average of the student do.

        The sizes of the weights are looked at when the reads so far are a power of two, since a GPU is waited for then.
        """
        self._reads += 1
        return self._weights.changed(model, sizes=self._reads & (self._reads - 1) == 0)

    def fits(self, inputs: Any) -> bool:
        """Whether the copy answers these inputs as the teacher does: what was folded was proved for one shape."""
        return not self._folds or _shapes(inputs) == self._shapes

    def read(self, inputs: Any, only: Collection[str] | None) -> tuple[Any, dict[str, Tensor]]:
        """Return the copy's output and tapped tensors, as `Taps.read` does."""
        if not self._half:
            return self.taps.read(inputs, only=only)
        with torch.autocast(self._device.type, torch.bfloat16):
            output, values = self.taps.read(inputs, only=only)
        return on_tensors(widen, output), {path: widen(value) for path, value in values.items()}


def prepare(taps: Taps) -> Prepared | None:
    """Return a quicker copy of a teacher; None if there is none, or its layers move too far.

    Args:
        taps: of the teacher, in evaluation mode, with the layers that are read.
    """
    first = next(taps.model.parameters(), None)
    if first is None or not _copyable(taps.model):
        return None
    for half, last in _ways(taps.model, first.device):
        way = " and ".join(["in bfloat16"] * half + ["with channels last"] * last) or "with batch norms folded"
        try:
            prepared = Prepared(taps, first.device, half=half, last=last)
            if not prepared.arithmetic:
                return None
            prepared.moved = _moved(taps, prepared)
        except Exception as error:  # of a model that cannot be copied, or not run so
            LOG.info("The %s is not run %s: %s", taps.name, way, check.sentence(error))
            continue
        worst = max(prepared.moved, key=prepared.moved.__getitem__, default="")
        moved = prepared.moved.get(worst, 0.0)
        if moved <= TOLERANCE:
            text = "The %s is run with %s; its layers change by at most %.2g (%s)."
            LOG.info(text, taps.name, prepared.arithmetic, moved, worst)
            return prepared
        LOG.info("The %s is not run %s: its layer '%s' would change by %.2g.", taps.name, way, worst, moved)
    return None


def _ways(model: nn.Module, device: torch.device) -> Iterator[tuple[bool, bool]]:
    """Yield how a copy may run, bfloat16 and channels last, the quickest first."""
    for half in (True, False) if native_bfloat16(device) else (False,):
        dtype = torch.bfloat16 if half else torch.float32
        for last in (True, False) if prefers_channels_last(model, device, dtype) else (False,):
            yield half, last


def _copyable(model: nn.Module) -> bool:
    """Whether a model is made of plain modules in float32: graphs, wrappers and quantised ones are left alone."""
    graphs = (torch.jit.ScriptModule, fx.GraphModule)
    if any(isinstance(part, graphs) or is_unflattened(part) for part in model.modules()) or is_quantized(model):
        return False
    plain = unwrap(model) is model and not has_compiled(model)
    return plain and {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()} == {torch.float32}


def _halve(model: nn.Module) -> bool:
    """Turn the weights of convolutions and linear layers into bfloat16; tell whether there were any."""
    found = False
    for part in model.modules():
        if isinstance(part, (nn.Linear, _ConvNd, nn.MultiheadAttention)):
            for parameter in part.parameters(recurse=False):
                parameter.data = parameter.data.to(torch.bfloat16)
                found = True
    return found


@torch.no_grad()
def _moved(taps: Taps, prepared: Prepared) -> dict[str, float]:
    """Return how far each layer moves on the example."""
    with contextlib.ExitStack() as stack:
        for each in (taps, prepared.taps):  # a graph for the example alone would take half a minute
            stack.callback(setattr, each, "compiled", each.compiled)
            each.compiled = None
        stack.enter_context(rng.untouched())
        for model in (taps.model, prepared.taps.model):
            stack.enter_context(unchanged(model, set(), parameters=False))
        exact = taps.read(to_device(taps.example, prepared._device))[1]
        with rng.untouched():
            quicker = prepared.read(to_device(taps.example, prepared._device), None)[1]
    return {path: _distance(value, quicker[path]) for path, value in exact.items()}


def _distance(exact: Tensor, quicker: Tensor) -> float:
    if not exact.is_floating_point():
        return 0.0 if torch.equal(exact, quicker) else torch.inf
    size, apart = float(exact.double().norm()), float((quicker.double() - exact.double()).norm())
    return apart / size if size else (torch.inf if apart else 0.0)


def _shapes(inputs: Any) -> list[torch.Size]:
    return [tensor.shape[1:] for tensor in tensors(inputs)]
