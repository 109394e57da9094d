"""Validation: accuracy where a term teaches the classes, else the distillation loss; or one's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from congruence.core.ranks import sum_over_ranks
from congruence.engine.batch import Batch, unpack
from congruence.engine.distiller import Distiller


def teaches_classes(distiller: Distiller) -> bool:
    """Whether a term reads labels or logits, so that a student's accuracy means something."""
    return any(needs.labels or "logits" in needs.roles for needs in distiller.needs().values())


@torch.no_grad()
def validate(distiller: Distiller, loader: Iterable[Any], device: torch.device) -> dict[str, float]:
    """Return {"accuracy", "loss"} over the labelled samples, with "/NAME" behind each where students are several.

    "loss" is the mean cross-entropy. Where no term teaches the classes, or no sample has a label, it is the
    distillation loss, and the only number.

    Raises:
        ValueError: where the loader yields nothing.
    """
    modes = [(module, module.training) for module in distiller.modules()]
    distiller.eval()
    try:
        totals: dict[str, Tensor] = {}
        for raw in loader:
            batch = unpack(raw, device)
            classes = batch.labels is not None and teaches_classes(distiller)
            counted = _classes(distiller, batch) if classes else _distillation(distiller, batch)
            for name, value in counted.items():
                totals[name] = totals.get(name, torch.zeros((), dtype=torch.float64, device=value.device)) + value
    finally:
        for module, mode in modes:
            module.training = mode
    if not totals:
        raise ValueError("The validation loader gave no batch: is the dataset empty?")
    count = float(sum_over_ranks(totals.pop("count")))
    if not count:
        raise ValueError("No sample of the validation set has a label (all are -1).")
    return {name: float(sum_over_ranks(total)) / count for name, total in totals.items()}


def _classes(distiller: Distiller, batch: Batch) -> dict[str, Tensor]:
    labels = batch.labels
    if labels is None:
        raise ValueError("Accuracy needs labels, the batch has none.")
    labelled = labels >= 0
    labels = labels.clamp(min=-1)
    counted = {"count": labelled.sum().double()}
    for name in distiller.students:
        logits = distiller.logits(name, batch.inputs).float()
        end = "" if len(distiller.students) == 1 else f"/{name}"
        counted[f"accuracy{end}"] = ((logits.argmax(1) == labels) & labelled).sum().double()
        counted[f"loss{end}"] = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum").double()
    return counted


def _distillation(distiller: Distiller, batch: Batch) -> dict[str, Tensor]:
    captured = distiller.capture(batch.inputs, batch.labels, batch.index, views=batch.views)
    rows = next(iter(captured.tensors.values())).shape[0]
    loss = distiller.score(captured, update=False, together=False).loss
    return {"count": loss.new_tensor(rows).double(), "loss": loss.double() * rows}
