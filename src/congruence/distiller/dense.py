"""Dense logits as rows: each position that counts is one, over all ranks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from congruence.core.inputs import inputs_of
from congruence.core.ranks import world_size
from congruence.distiller.bindings import Binding, mask_of
from congruence.distiller.captured import Captured
from congruence.geometry.positions import check_positions, labels_of_positions, positions_of, rows_of_positions
from congruence.methods.method import Signals

_ROLE = "logits"


def as_rows(binding: Binding, captured: Captured, signals: Signals) -> Signals:
    """Return signals whose dense logits are rows [rows, C] of the positions that the mask counts; others as they are.

    Raises:
        ValueError: where models, layers or labels have other positions.
    """
    dense = {key: value for key, value in signals.tensors.items() if key[2] == _ROLE}
    if not any(tensor.dim() > 2 for value in dense.values() for tensor in value):
        return signals
    shapes = {positions_of(tensor.shape): tensor.shape for value in dense.values() for tensor in value}
    check_positions(binding.term, shapes)
    shape = next(iter(shapes.values()))
    masks: dict[int, Tensor] = {}
    for (model, view, role), value in dense.items():
        inputs = captured.given(binding.models[model], view)
        for path, tensor in zip(binding.paths[model, role], value, strict=True):
            mask = mask_of(binding, model, role, path, tensor, inputs)
            if mask is not None:
                masks[id(mask)] = mask
    labels = signals.labels if binding.method.needs.labels else None
    if labels is not None:
        labels = labels_of_positions(labels, shape, f"The term '{binding.term}'")
    rows = {key: tuple(map(rows_of_positions, value)) for key, value in dense.items()}
    if masks:  # to know how many rows there are waits for the device
        counted = torch.stack(list(masks.values())).all(0).flatten()
        rows = {key: tuple(each[counted] for each in value) for key, value in rows.items()}
        labels = None if labels is None else labels[counted]
    return replace(signals.replace(rows), labels=labels, index=None, dense=True)


def weighed(signals: Signals, own: Tensor, total: Tensor) -> Signals:
    """Return a rank's rows with its part of all ranks' (`Signals.share`), which makes a mean over rows that of all.

    The logits of all ranks' positions need not go to each. Where no row counts, the share is 0.

    Args:
        signals: of a method whose loss is a mean over rows.
        own: over how many rows this rank's mean is, float64 [].
        total: their sum over the ranks.
    """
    return replace(signals, share=own * world_size() / torch.where(total > 0, total, torch.ones_like(total)))


def never_empty(signals: Signals) -> Signals:
    """Return signals as they are; where no dense row is left, which losses refuse, one of zeros with a share of 0."""
    some = next(iter(signals.tensors.values()))[0] if signals.dense else None
    if some is None or len(some):
        return signals
    return replace(_one_of_zeros(signals), share=torch.zeros((), device=some.device))


def _one_of_zeros(signals: Signals) -> Signals:
    """Return one row of zeros in the place of none, which losses refuse; it is in the graph of those it stands for."""
    tensors = {
        key: tuple(each.new_zeros(1, each.shape[1]) + each.sum() for each in value)
        for key, value in signals.tensors.items()
    }
    labels = signals.labels
    return replace(
        signals, tensors=tensors, labels=None if labels is None else labels.new_full((1, *labels.shape[1:]), -1)
    )


def counted_positions(bindings: Iterable[Binding], student: str, logits: Tensor, inputs: Any) -> Tensor | None:
    """Return which positions of a student's dense logits count by the first term that reads them; None where all do.

    Args:
        bindings: of the terms.
        student: its name.
        logits: its own, dense or not.
        inputs: of the batch.
    """
    for binding in bindings:
        if binding.method.needs.dense and binding.models.get("student") == student and logits.dim() > 2:
            path = binding.paths["student", _ROLE][-1]
            return mask_of(binding, "student", _ROLE, path, logits, inputs_of(inputs, student))
    return None
