"""Run a model over a dataset once, and keep its embeddings and logits."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from congruence.core.devices import to_device
from congruence.data.datasets.facts import declared_classes
from congruence.data.datasets.model_facts import ModelFacts, check_prepared
from congruence.data.loading.source import BatchSource
from congruence.evaluation.embeddings import Embeddings
from congruence.models.evaluating import evaluating
from congruence.models.layouts import batch_sizes, check_rows
from congruence.models.masks import token_mask
from congruence.models.projectors import rows
from congruence.models.taps import Taps
from congruence.models.untaught import is_untaught

LOG = logging.getLogger("congruence")


class Embedded(NamedTuple):
    """Embeddings [N, D] and logits [N, C] (None where the model has none) on the CPU, and labels [N] or None.

    `head` is weight [C, D] and bias [C] or None of the Linear that makes the logits of the embeddings, where one does.
    `left_out` says why there are no logits, where the model's own mean nothing: its head was taught by no term, or its
    classes are not the data's.
    """

    features: Tensor
    logits: Tensor | None
    labels: Tensor | None
    head: tuple[Tensor, Tensor | None] | None = None
    left_out: str = ""

    def without_classes(self, why: str) -> Embedded:
        """Leave out the logits, which mean nothing, for a reason unless there was one before."""
        return self._replace(logits=None, head=None, left_out=self.left_out or why)


def embed(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layer: str | None = None,
    name: str = "model",
    device: str | torch.device | None = None,
) -> Embedded:
    """Embed every sample of a loader, in evaluation mode.

    Args:
        model: any module; its modes are as before afterwards.
        loader: of batches as `fit` takes them, in the order wanted; one of `congruence.data` gives every rank all
            samples.
        layer: the layer that gives the embedding; by default what enters the last Linear. Maps and tokens are averaged
            over their positions, padded ones ("attention_mask" of the inputs) left out.
        name: of the model, in sentences.
        device: to which the model is moved; None for where it is.

    Raises:
        ValueError: for a layer that is not there, or an empty loader.
    """
    return embed_all({name: model}, loader, layers={name: layer}, device=device)[name]


@torch.no_grad()
def embed_all(
    models: Mapping[str, nn.Module],
    loader: Iterable[Any],
    *,
    layers: Mapping[str, str | None],
    device: str | torch.device | None = None,
) -> dict[str, Embedded]:
    """Embed every sample of a loader by several models in one pass; see `embed`."""
    facts = ModelFacts.of(loader)
    for model in models.values():
        check_prepared(model, facts)
    readers = {name: _Reader(model, layers[name], name, device) for name, model in models.items()}
    labels: list[Tensor] = []
    with contextlib.ExitStack() as stack:
        for model in models.values():
            stack.enter_context(evaluating(model))
        for batch in BatchSource(loader).share():
            for reader in readers.values():
                reader.read(batch.inputs)
            if batch.labels is not None:
                labels.append(batch.labels.cpu())
    if labels and (labels[0].dim() != 1 or labels[0].is_floating_point()):
        kind = f"{str(labels[0].dtype).removeprefix('torch.')} {list(labels[0].shape)}"
        LOG.warning("Numbers of classes are left out: the labels (%s) are none.", kind)
        labels = []
    all_labels = torch.cat(labels) if labels else None
    embedded = {name: reader.embedded(all_labels) for name, reader in readers.items()}
    classes = _classes(declared_classes(getattr(loader, "dataset", None)), embedded.values(), all_labels)
    return {name: _of_classes(name, each, classes) for name, each in embedded.items()}


def _classes(declared: int | None, embedded: Iterable[Embedded], labels: Tensor | None) -> int | None:
    """Return how many classes the data has, None where nothing tells.

    The labels tell where models differ: of logits of 10 and 1000 classes, labels of 0 to 8 are those of the first.
    """
    widths = {each.logits.shape[1] for each in embedded if each.logits is not None}
    if declared is not None or labels is None or len(widths) < 2 or not len(labels):
        return declared
    counted = int(labels.max()) + 1
    return min((width for width in widths if width >= counted), default=None)


def _of_classes(name: str, embedded: Embedded, classes: int | None) -> Embedded:
    """Leave out logits that are not of the data's classes."""
    logits = embedded.logits
    if logits is None or classes is None or logits.shape[1] == classes:
        return embedded
    why = f"the {name}'s output has {logits.shape[1]} columns, the data {classes} classes"
    return embedded.without_classes(why)


class _Reader:
    """One model, and what it has given so far."""

    def __init__(self, model: nn.Module, layer: str | None, name: str, device: str | torch.device | None) -> None:
        first = next(model.parameters(), None)
        self.device = torch.device(device) if device is not None else first.device if first is not None else None
        self.taps = Taps(model if device is None else model.to(self.device), name=name)
        self.layer = layer
        self.paths: tuple[str, str | None] = ("", None)
        self.left_out = ""
        self.features: list[Tensor] = []
        self.logits: list[Tensor] = []

    def read(self, inputs: Any) -> None:
        """Run the model over a batch."""
        inputs = to_device(inputs, self.device)
        if not self.features:
            self.paths = self._find(inputs)
        features, classes = self.paths
        read = self.taps.read(inputs)[1]
        tapped, what = read[features], f"The {self.taps.name}'s layer '{features}'"
        if tapped.dim() > 2:
            check_rows(what, tapped.shape, batch_sizes(inputs))
        mask = token_mask(tapped, inputs, None, what, "read a layer that gives one row a sample", look=True)
        if mask is None:
            self.taps.turned.check_own_mask(features, "`embed`")
        self.features.append(rows(tapped, mask).float().cpu())
        if classes is not None and read[classes].dim() == 2:
            given = read[classes].float().cpu()
            self.logits.append(given.log() if classes == self.taps.defaults.probabilities else given)

    def _find(self, example: Any) -> tuple[str, str | None]:
        self.taps.probe(example, training=False)
        try:
            logits: str | None = self.taps.default("logits")
        except ValueError:
            logits = self.taps.defaults.probabilities
        heads = self.taps.defaults.made_of
        if heads and all(is_untaught(self.taps.module(head)) for head in heads):
            logits, self.left_out = None, f"no term taught the {self.taps.name}'s {', '.join(sorted(map(repr, heads)))}"
        paths = (self.taps.default("features") if self.layer is None else self.layer, logits)
        self.taps.require([path for path in paths if path is not None])
        self.taps.layout(paths[0], "read a layer that gives one row a sample")
        return paths

    def embedded(self, labels: Tensor | None) -> Embedded:
        """Return all that was read."""
        if not self.features:
            raise ValueError("`embed`: `loader` must hold at least one batch, got none: is the dataset empty?")
        logits = torch.cat(self.logits) if self.logits else None
        head = self._head() if self.logits else None
        return Embedded(torch.cat(self.features), logits, labels, head, self.left_out)

    def _head(self) -> tuple[Tensor, Tensor | None] | None:
        """Return the last Linear, where the embedding is what enters it."""
        head = self.taps.head
        # Of a sum of branches, one is not the logits.
        if head is None or self.paths != (f"input:{head}", head or "output"):
            return None
        linear = self.taps.module(head)
        if not isinstance(linear, nn.Linear):  # a quantised one
            return None
        bias = None if linear.bias is None else linear.bias.detach().float().cpu().clone()
        return linear.weight.detach().float().cpu().clone(), bias


def tell_left_out(embedded: Mapping[str, Embedded | None]) -> None:
    """Say of each model by name why its classes are not measured, where its logits were left out."""
    for name, each in embedded.items():
        if each is not None and each.left_out:
            LOG.warning("The %s's accuracy, agreement and entropy are left out: %s.", name, each.left_out)


def beside(student: Embedded, teacher: Embedded | None = None, *, database: Embedded | None = None) -> Embeddings:
    """Return what numbers are measured on: a student's embeddings beside its teacher's of the same samples.

    Args:
        student: has the labels.
        teacher: of the same samples in the same order.
        database: the student's of the training images.
    """
    return Embeddings(
        student.features,
        None if teacher is None else teacher.features,
        student.logits,
        None if teacher is None else teacher.logits,
        student.labels,
        None if teacher is None else teacher.head,
        None if database is None else (database.features, database.labels),
    )
