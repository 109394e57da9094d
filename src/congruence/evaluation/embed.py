"""Run a model over a dataset once, and keep its embeddings and logits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from congruence.engine.batch import unpack
from congruence.metrics import accuracy
from congruence.models.projectors import rows
from congruence.models.taps import Taps


class Embedded(NamedTuple):
    """Embeddings [N, D] and logits [N, C] (None where the model has none) on the CPU, and labels [N] where known."""

    features: Tensor
    logits: Tensor | None
    labels: Tensor | None


@torch.no_grad()
def embed(
    model: nn.Module, loader: Iterable[Any], *, layer: str | None = None, name: str = "model", device: str = "cpu"
) -> Embedded:
    """Embed every sample of a loader, in evaluation mode.

    Args:
        model: any module; its modes are as before afterwards.
        loader: of batches as `fit` takes them, in the order wanted.
        layer: the layer that gives the embedding; by default what enters the last Linear.
        name: of the model, in sentences.
        device: where to run.

    Raises:
        ValueError: for a layer that is not there, or an empty loader.
    """
    place = torch.device(device)
    modes = [(module, module.training) for module in model.modules()]
    model.to(place).eval()
    try:
        taps: Taps | None = None
        features, logits, labels = [], [], []
        layers: tuple[str, str | None] = ("", None)
        for raw in loader:
            batch = unpack(raw, place)
            if taps is None:
                taps, layers = _taps(model, batch.inputs, layer, name)
            read = taps.read(batch.inputs)[1]
            features.append(rows(read[layers[0]]).float().cpu())
            if layers[1] is not None and read[layers[1]].dim() == 2:
                logits.append(read[layers[1]].float().cpu())
            if batch.labels is not None:
                labels.append(batch.labels.cpu())
    finally:
        for module, mode in modes:
            module.training = mode
    if not features:
        raise ValueError("`embed`: `loader` must hold at least one batch, got none: is the dataset empty?")
    return Embedded(torch.cat(features), torch.cat(logits) if logits else None, torch.cat(labels) if labels else None)


def _taps(model: nn.Module, example: Any, layer: str | None, name: str) -> tuple[Taps, tuple[str, str | None]]:
    taps = Taps(model, name=name)
    taps.probe(example, training=False)
    try:
        logits: str | None = taps.default("logits")
    except ValueError:
        logits = None
    layers = (layer or taps.default("features"), logits)
    taps.require([path for path in layers if path is not None])
    return taps, layers


def known_accuracy(embedded: Embedded) -> float | None:
    """Return top-1 accuracy over the labelled samples; None without labels, or where the logits lack their classes."""
    if embedded.logits is None or embedded.labels is None:
        return None
    known = embedded.labels >= 0
    if not bool(known.any()) or int(embedded.labels.max()) >= embedded.logits.shape[1]:
        return None
    return accuracy(embedded.logits[known], embedded.labels[known], topk=(1,))[0]
