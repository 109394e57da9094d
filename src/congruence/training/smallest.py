"""Checks before the first step that the smallest batch of an epoch, often its last, can be trained on."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from congruence.core import check, ranks
from congruence.core.batch import Batch
from congruence.core.devices import on_tensors
from congruence.data.loading.source import BatchSource
from congruence.distiller.distiller import Distiller
from congruence.training.options import FitOptions
from congruence.training.trial import as_in_training

LOG = logging.getLogger("congruence")


def rehearse_smallest(distiller: Distiller, source: BatchSource, options: FitOptions, device: torch.device) -> None:
    """Raise for a run that would fail at a batch, a rank's share or a micro-batch of one sample, as batch norms do.

    If there is such a batch, a step is tried with one sample, and with two if that fails.

    Raises:
        ValueError: with the batch, the failure, and a way to avoid it.
    """
    told, world = ranks.from_all_ranks(source.smallest()), ranks.world_size()
    _check_equal(told, [name for name, needs in distiller.needs().items() if needs.gathers])
    least = None if None in told else min(each for each in told if each is not None)
    if least is None:
        return
    usual = source.batch_size
    shares = {least, least if usual is None else usual // world}
    part, cut = min((_smallest_part(share, options.micro_batch), share) for share in shares)
    if min(part, least) != 1:
        return
    batch = source.first().to(device)
    failure, idle = _trial(distiller, batch, rows=1, score=least == 1)
    _warn_of_idle(idle, each=usual == world)
    if not failure or _trial(distiller, batch, rows=2, score=least == 1)[0]:
        return  # a failure with two samples as well will be raised in training
    if least == 1:
        what = "a batch" if usual == world else "the smallest batch of an epoch (its last?)"
        where = f"{what} of `train_loader` has 1 sample{' for a rank' if world > 1 else ''}"
        way = "a larger batch size" if usual == world else "another batch size, or drop_last=True"
    else:
        where = f"micro_batch={options.micro_batch} cuts a batch of {cut} samples into parts of which one has 1 sample"
        way = "another `micro_batch`"
    raise ValueError(f"`fit`: {where}, which cannot be trained on ({failure}): give {way}.")


def _check_equal(told: list[int | None], gathering: list[str]) -> None:
    """Raise if it is known that ranks get other numbers of samples of a batch, and terms gather these."""
    if gathering and None not in told and len(set(told)) > 1:
        raise ValueError(
            f"`fit`: `train_loader` must give every rank as many samples of a batch, but their smallest batches (the "
            f"last?) have {', '.join(map(str, told))}, and the terms {', '.join(gathering)} gather all ranks' rows: "
            "use drop_last=True, or a loader of congruence.data."
        )


def _smallest_part(samples: int, micro_batch: int | None) -> int:
    """Return the smallest number of samples that run at once; `in_chunks` cuts into parts as equal as possible."""
    return samples if micro_batch is None or samples <= micro_batch else samples // -(-samples // micro_batch)


def _warn_of_idle(terms: list[str], *, each: bool) -> None:
    """Warn of terms that cannot compare anything within one sample; raise if every batch has one sample."""
    if terms and each:
        raise ValueError(
            f"`fit`: the terms {', '.join(terms)} compare the samples of a batch, and each batch of `train_loader` has "
            "1: give a larger batch size."
        )
    if terms:
        LOG.warning(
            "The smallest batch of an epoch has 1 sample, in which the terms %s can compare nothing: drop_last=True "
            "leaves it out.",
            ", ".join(terms),
        )


def _trial(distiller: Distiller, batch: Batch, *, rows: int, score: bool) -> tuple[str, list[str]]:
    """Try a step with the given number of samples; return the failure, "" if none, and the terms that compared nothing.

    The distiller is restored afterwards.
    """
    few = _first(batch, rows)
    with torch.no_grad(), as_in_training(distiller):
        try:
            captured = distiller.capture(few.inputs, few.labels, few.index, views=few.views)
            out = distiller.score(captured, update=False) if score else None
        except Exception as error:  # a model may raise anything
            return check.sentence(error).rstrip("."), []
    if out is None:
        return "", []
    relational = [name for name, needs in distiller.needs().items() if needs.scope == "batch"]
    parts = {term: [v for name, v in out.terms.items() if name.partition(".")[0] == term] for term in relational}
    idle = [term for term, values in parts.items() if values and not any(map(bool, values))]
    failure = "" if bool(torch.isfinite(out.loss)) else "the loss is not finite"
    return failure, [] if failure or ranks.world_size() > 1 else idle


def _first(batch: Batch, rows: int) -> Batch:
    """Return the first samples of a batch; a single sample is repeated."""
    count = batch.rows or 0

    def cut(tensor: Tensor) -> Tensor:
        if not tensor.dim() or len(tensor) != count:
            return tensor.clone()
        return tensor[:rows].clone() if count >= rows else torch.cat([tensor[:1]] * rows)

    parts: list[Any] = [on_tensors(cut, part) for part in (batch.inputs, batch.labels, batch.index, batch.views)]
    return Batch(*parts)
