"""Several models over one loader in one pass, or from what was kept of an earlier one."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from congruence.core.allocator import memory_kept
from congruence.core.inputs import Inputs
from congruence.data.datasets.batched import BatchDataset
from congruence.data.datasets.files import files_changed
from congruence.data.loading.batches import EpochOrder, Loader
from congruence.data.loading.source import BatchSource
from congruence.evaluation.embed import Embedded, Reader, read_all, readers_of
from congruence.evaluation.kept import KeptRows
from congruence.evaluation.truth import Labels
from congruence.models.evaluating import evaluating

LOG = logging.getLogger("congruence")


class Streamed(NamedTuple):
    """Each model's outputs for all samples, with logits of any classes, and the first batch's inputs."""

    rows: dict[str, Embedded]
    example: Any


@torch.no_grad()
def stream(
    models: Mapping[str, nn.Module],
    loader: Iterable[Any],
    *,
    layers: Mapping[str, str | None],
    device: str | torch.device | None = None,
    kept: KeptRows | None = None,
) -> Streamed:
    """Let models read a loader once; the one called "teacher" takes the teacher's inputs, others the student's.

    Args:
        models: by name.
        loader: of batches as `fit` takes them.
        layers: of each model, as in `embed`.
        device: to which the models are moved; None for where they are.
        kept: where rows are looked for, and kept. A model whose rows are there reads a batch at most. Where nobody can
            tell what the loader gives, or what a model is, that is said and it reads all.

    Raises:
        ValueError: as `embed`.
    """
    readers = readers_of(models, loader, layers=layers, device=device)
    embedded: dict[str, Embedded] = {}
    first: list[Any] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(memory_kept())
        for model in models.values():
            stack.enter_context(evaluating(model))
        identities = {} if kept is None else _identities(readers, loader, first, stack, kept)
        for name, identity in identities.items():
            rows = None if kept is None else kept.find(identity)
            if rows is not None:
                embedded[name] = readers[name].found(rows)
        unread = {name: reader for name, reader in readers.items() if name not in embedded}
        labels = Labels()
        if unread:
            first.clear()
            labels = read_all(unread.values(), loader, stack, first)
    for name, reader in unread.items():
        embedded[name] = reader.embedded(labels)
        if kept is not None and name in identities:
            kept.keep(identities[name], embedded[name].tensors())
    return Streamed({name: embedded[name] for name in models}, first[0])


def _identities(
    readers: Mapping[str, Reader],
    loader: Iterable[Any],
    first: list[Any],
    stack: contextlib.ExitStack,
    kept: KeptRows,
) -> dict[str, dict[str, Any]]:
    """Return what decides the rows of each model of which that can be told, and say of which it cannot."""
    if not (
        isinstance(loader, Loader)
        and isinstance(loader.dataset, BatchDataset)
        and isinstance(loader.sampler, EpochOrder)
        and len(loader)
    ):
        text = (
            "Embeddings are not kept in '%s': the data of the %s cannot be identified, which needs a "
            "`congruence.data.loader` around a dataset of `congruence.data`."
        )
        LOG.warning(text, kept.folder, type(loader).__name__)
        return {}
    data = {
        **loader.describe(),
        "dataset": loader.dataset.fingerprint(),
        **files_changed(loader.dataset),
        "views": list(loader.views),
        "loaded_on": str(loader.device),
    }
    inputs = next(BatchSource(loader).share()).inputs
    first.append(inputs)
    identities = {}
    for name, reader in readers.items():
        reader.begin(inputs, stack)
        identity = reader.identity()
        if identity is None:
            LOG.warning(
                "The %s's embeddings are not kept: the model's content cannot be read, so it cannot be identified.",
                name,
            )
            continue
        taken = [name, reader.kind] if isinstance(inputs, Inputs) else []
        identities[name] = {**identity, "data": data, "taken": taken}
    return identities
