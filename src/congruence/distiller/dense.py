"""Dense logits as rows: each position that counts is one, over all ranks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from congruence.core.inputs import inputs_of
from congruence.core.numerics import as_float64
from congruence.core.ranks import gather_uneven_rows, sum_over_ranks, world_size
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


def over_ranks(binding: Binding, signals: Signals, *, together: bool) -> Signals:
    """Return rows with what makes their mean that of the positions of all ranks, which may hold other numbers of them.

    Of a method that relates rows all ranks' are gathered. A mean over rows is weighed by this rank's part of them
    (`Signals.share`): the logits of all ranks' positions need not go to each. Where no row counts, the share is 0.
    """
    method, share = binding.method, None
    if together and world_size() > 1:
        if method.needs.scope == "batch":
            tensors = {key: tuple(map(gather_uneven_rows, value)) for key, value in signals.tensors.items()}
            labels = None if signals.labels is None else gather_uneven_rows(signals.labels)
            signals = replace(signals, tensors=tensors, labels=labels)
        else:
            own = as_float64(method.counted(signals))
            total = sum_over_ranks(own)
            share = own * world_size() / torch.where(total > 0, total, torch.ones_like(total))
    some = next(iter(signals.tensors.values()))[0]
    if len(some) == 0:
        signals, share = _one_of_zeros(signals), torch.zeros((), device=some.device)
    return replace(signals, share=share)


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
