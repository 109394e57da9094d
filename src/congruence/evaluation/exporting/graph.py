"""The graph that is exported: a model that gives its logits, its embedding or both as plain tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.devices import row_count, take_rows
from congruence.models.capture import Capture
from congruence.models.evaluating import evaluating
from congruence.models.forward import call
from congruence.models.layers import Layers, has_compiled, parse, unwrap
from congruence.models.parameters import is_quantized
from congruence.models.projectors import rows
from congruence.models.taps import Taps
from congruence.models.untaught import is_untaught

LOGITS, PROBABILITIES, FEATURES, OUTPUT = "logits", "probabilities", "features", "output"
CLASSES = (LOGITS, PROBABILITIES)  # outputs whose largest column is the class


def plain_float32(model: nn.Module) -> nn.Module:
    """Return a model as it can be exported, on the host in float32; the given one where it is so already.

    Raises:
        ValueError: for a model that is compiled or quantised, or that has more than tensors of its own.
    """
    if has_compiled(model):
        raise ValueError(
            "A model that torch.compile runs cannot be exported: give the plain module (of torch.compile(model) that "
            "is `model._orig_mod`)."
        )
    inner = unwrap(model)
    if is_quantized(inner):
        raise ValueError(
            f"A quantised model ({type(inner).__name__}) cannot be exported: give the one in float32 (int8=True makes "
            "an int8 file of it)."
        )
    held = [*inner.parameters(), *inner.buffers()]
    if any(tensor.is_meta for tensor in held):
        raise ValueError("A model on the device 'meta' has no weights to export: load them first.")
    fits = all(t.device.type == "cpu" and t.dtype not in (torch.float16, torch.bfloat16) for t in held)
    return inner if fits else copy.deepcopy(inner).cpu().float()


def two_rows(example: Any) -> Any:
    """Return the inputs of two samples of a batch: with one sample, a tracer would treat the batch size as a constant.


    Raises:
        ValueError: for anything but a batch.

    Example:
        >>> two_rows(torch.ones(1, 3)).shape
        torch.Size([2, 3])
    """
    count = row_count(example)
    if not count:
        check.fail("export", "example", "a batch of inputs: a tensor, a tuple or a mapping of them", _kind(example))
    return take_rows(example, torch.arange(2) % count, count)


def _kind(example: Any) -> str:
    return check.shape(example) if isinstance(example, Tensor) else type(example).__name__


class Graph(nn.Module):
    """A model whose outputs are named tensors [B, ...], in their order, from inputs by position.

    Args:
        model: plain, on the host.
        example: a batch of inputs.
        features: whether the embedding is among the outputs.
        layer: that gives the embedding; None for what enters the last Linear.
        projection: what the embedding goes through, a term's trained map.

    Attributes:
        paths: the layer of each output.
        layers: of the embedding and of the logits, exported or not; None if nothing tells.
        inputs: the names of the inputs, in order.

    Raises:
        ValueError: if there is no such layer, or the forward fails on the example.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> graph = Graph(model, torch.ones(2, 3), features=True)
        >>> graph.paths, [list(output.shape) for output in graph(torch.ones(4, 3))]
        ({'logits': 'output', 'features': 'input:2'}, [[4, 2], [4, 5]])
    """

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        *,
        features: bool = False,
        layer: str | None = None,
        projection: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.projection = projection
        self.by_name = isinstance(example, Mapping)
        self.inputs = _names(example)
        taps = Taps(model, name="model")
        taps.probe(example, training=False)
        self.paths = _outputs(taps, features=features, layer=layer)
        taps.require(self.paths.values())
        self.layers = {FEATURES: self.paths.get(FEATURES) or _default(taps, FEATURES), LOGITS: _default(taps, LOGITS)}
        layers = Layers(model, "model")
        parsed = {path: parse(path) for path in self.paths.values()}
        self._read = (layers, parsed, {text: layers.resolve(path) for text, path in parsed.items()})
        self._turned = taps.turned
        if projection is not None:
            self._check_projection(example, projection)

    def _check_projection(self, example: Any, projection: nn.Module) -> None:
        self.projection = None
        given = self.outputs(example)[FEATURES]
        self.projection = projection
        width = getattr(projection, "in_features", given.shape[1])
        if width != given.shape[1]:
            raise ValueError(
                f"The projection takes embeddings of width {width}, and the layer '{self.paths[FEATURES]}' gives "
                f"{given.shape[1]}: name the layer that it was trained on (layer=, --layer)."
            )

    def arguments(self, inputs: Any) -> tuple[Any, ...]:
        """Return a batch's inputs by position, as `forward` takes them."""
        if isinstance(inputs, Mapping):
            return tuple(inputs[name] for name in self.inputs)
        return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)

    @torch.no_grad()
    def outputs(self, inputs: Any) -> dict[str, Tensor]:
        """Return the outputs by name, in evaluation mode."""
        with evaluating(self):
            return dict(zip(self.paths, self(*self.arguments(inputs)), strict=True))

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        """Run the model, and return the outputs in their order."""
        layers, parsed, targets = self._read
        given = dict(zip(self.inputs, inputs, strict=True)) if self.by_name else inputs
        # Copies: a layer that works in place would write over what was taken.
        capture = Capture("model", parsed, targets, copied=frozenset(parsed))
        with capture.hooked(layers):
            capture.finish(call(self.model, given))
        values = {}
        for name, path in self.paths.items():
            value = capture.values[path]
            if name == FEATURES:
                value = self._rows(self._turned.turn(path, value), given)
            values[name] = value
        return tuple(values.values())

    def _rows(self, features: Tensor, given: Any) -> Tensor:
        mask = given.get("attention_mask") if isinstance(given, Mapping) and features.dim() == 3 else None
        embedded = rows(features, None if mask is None or mask.shape != features.shape[:2] else mask.bool())
        return embedded if self.projection is None else self.projection(embedded)


def _names(example: Any) -> tuple[str, ...]:
    if isinstance(example, Mapping):
        return tuple(map(str, example))
    if isinstance(example, (tuple, list)):
        return ("input",) if len(example) == 1 else tuple(f"input_{number}" for number in range(len(example)))
    return ("input",)


def _outputs(taps: Taps, *, features: bool, layer: str | None) -> dict[str, str]:
    """Return which layer each output is, by the output's name."""
    outputs: dict[str, str] = {}
    classes = PROBABILITIES if taps.defaults.probabilities else LOGITS
    path = _default(taps, LOGITS) or taps.defaults.probabilities
    heads = taps.defaults.made_of
    if path is not None and not (heads and all(is_untaught(taps.module(head)) for head in heads)):
        # What the model says itself, where that is one tensor: a head's values may be bent on their way out.
        outputs[classes] = OUTPUT if isinstance(taps.dry_output(), Tensor) else path
    if features or layer is not None:
        if layer is None:
            try:
                layer = taps.default(FEATURES)
            except ValueError as error:
                raise ValueError(f"{str(error).split(': name ')[0]}: name one (layer=, --layer).") from None
        outputs[FEATURES] = layer
    elif not outputs:
        found = _default(taps, FEATURES)
        if found is None and not isinstance(taps.dry_output(), Tensor):
            raise ValueError(
                "The model's output is not one tensor, and it is not known which part is its logits or its "
                "embedding: name the layer to export (layer=, --layer), such as 'output[0]' or 'output[NAME]'."
            )
        outputs = {OUTPUT: OUTPUT} if found is None else {FEATURES: found}
    return outputs


def _default(taps: Taps, role: str) -> str | None:
    try:
        return taps.default(role)
    except ValueError:
        return None
