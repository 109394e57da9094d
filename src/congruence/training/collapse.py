"""Warns when features collapse onto one direction, which can happen while a relational loss falls."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor

from congruence.core import check, rng
from congruence.core.devices import on_tensors, tensors
from congruence.core.numerics import as_float64
from congruence.distiller.distiller import Distiller
from congruence.models.evaluating import evaluating
from congruence.models.sharded import is_sharded

LOG = logging.getLogger("congruence")
SAMPLES = 64  # samples from the first batch, measured again after each epoch
CLOSE, CLOSER = 0.99, 0.25  # a mean cosine above this is a collapse if 1 − cosine has also fallen to a quarter


class Spread(NamedTuple):
    """How far apart rows are: the mean cosine of two different ones, and the effective rank."""

    cosine: float
    rank: float


def spread(rows: Tensor) -> Spread:
    """Return mean_{i≠j} ⟨u_i, u_j⟩ of the unit rows u, and exp(−Σ p ln p) with p = σ/Σσ, σ those of the centred rows.

    Example:
        >>> spread(torch.eye(3))
        Spread(cosine=0.0, rank=2.0)
    """
    rows = as_float64(rows)
    units = torch.nn.functional.normalize(rows, dim=1)
    count = len(rows)
    cosine = (units.sum(0).square().sum() - units.square().sum()) / (count * (count - 1))
    values = torch.linalg.svdvals(rows - rows.mean(0))
    shares = values / values.sum()
    rank = torch.special.entr(shares).sum().exp() if bool(values.sum() > 0) else torch.zeros(())
    return Spread(round(float(cosine), 6), round(float(rank), 6))


class Collapse:
    """Compares the spread of the students' features with what it was before the first step.

    Nothing is reported if it cannot be measured (the forward fails in evaluation mode, features are not finite).
    """

    def __init__(self, distiller: Distiller) -> None:
        self.distiller = distiller
        self.start: dict[str, Spread] | None = None
        self._inputs: Any = None
        self._told: set[str] = set()

    def begin(self, inputs: Any) -> None:
        """Measure before the first step, on the first samples of the first batch, and keep these samples."""
        if self.start is not None:
            return
        rows = max((len(tensor) for tensor in tensors(inputs) if tensor.dim()), default=0)

        def first(tensor: Tensor) -> Tensor:
            return tensor[:SAMPLES].clone() if tensor.dim() and len(tensor) == rows else tensor.clone()

        self._inputs = on_tensors(first, inputs)
        self.start = self._measure()

    def look(self) -> dict[str, Spread]:
        """Measure again, and warn once of a student that has collapsed."""
        now = self._measure() if self.start or is_sharded(self.distiller) else {}
        for name, spread_now in now.items():
            before = (self.start or {}).get(name)
            if before is None or name in self._told or not _collapsed(before, spread_now):
                continue
            self._told.add(name)
            LOG.warning(
                "The %s's features collapse: two samples have a mean cosine of %.3f, before the first step %.3f "
                "(effective rank %.1f, before %.1f). A lower learning rate, or a smaller weight of %s, may prevent it.",
                *(name, spread_now.cosine, before.cosine, spread_now.rank, before.rank, self._terms()),
            )
        return now

    def _terms(self) -> str:
        names = [name for name, needs in self.distiller.needs().items() if "features" in needs.roles]
        return " and ".join(f"'{name}'" for name in names)

    @torch.no_grad()
    def _measure(self) -> dict[str, Spread]:
        try:
            with rng.untouched(), evaluating(self.distiller):
                rows = self.distiller.features(self._inputs)
            return {name: spread(of) for name, of in rows.items() if len(of) > 1 and bool(of.isfinite().all())}
        except Exception as error:  # a diagnostic never stops a run
            LOG.info("Feature collapse cannot be monitored: %s", check.sentence(error))
            self.start = self.start or {}
            return {}


def _collapsed(before: Spread, now: Spread) -> bool:
    return now.cosine > CLOSE and 1 - now.cosine < CLOSER * (1 - before.cosine)
