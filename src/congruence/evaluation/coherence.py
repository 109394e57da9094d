"""Coherence: GPCL estimated from batches of several sizes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from congruence.evaluation.embeddings import Embeddings
from congruence.evaluation.number import Value
from congruence.evaluation.protocol import Fitted, Protocol, ProtocolData, check_counts, check_settings
from congruence.evaluation.published import rows
from congruence.metrics import estimate_perception_coherence

SIZES = (4, 8, 16, 32, 64, 128, 256)
_REPEATS = 100


@dataclass(frozen=True)
class Coherence(Protocol):
    """`gpcl_batch_B`: the mean of `metrics.estimate_perception_coherence` over 100 draws of B test samples.

    It is biased upwards, most for small B: the published table 4 of perception coherence shows by how much. GPCL of all
    test samples is among the numbers of every run that has a teacher.

    Args:
        sizes: values of B; None: those of 4, 8, …, 256 that do not exceed the number of test samples.
        seed: seed of the draws.

    Example:
        >>> from congruence.data import load
        >>> fitted = Coherence(sizes=(4, 64)).fit(ProtocolData(load("digits"), "digits"))
        >>> [number.key for number in fitted.numbers]
        ['gpcl_batch_4', 'gpcl_batch_64']
    """

    kind: ClassVar[str] = "coherence"
    sizes: tuple[int, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sizes is not None:
            check_counts("Coherence", "sizes", self.sizes)
        check_settings("Coherence", seed=self.seed)

    def fit(self, data: ProtocolData) -> Fitted:
        """Return the protocol on data with enough test samples.

        Raises:
            ValueError: if the test part is smaller than the largest B.
        """
        there = len(data.splits.test)
        sizes = tuple(size for size in SIZES if size <= there) if self.sizes is None else self.sizes
        if not sizes or max(sizes) > there:
            raise self.refuse(f"{max(sizes, default=SIZES[0])} test samples or more (`sizes`)", data, str(there))
        measure = functools.partial(_measure, sizes=sizes, seed=self.seed)
        return Fitted(self.kind, rows(f"gpcl_batch_{size}" for size in sizes), measure)


def _measure(of: Embeddings, _: Mapping[str, Tensor], *, sizes: tuple[int, ...], seed: int) -> dict[str, Value]:
    if of.teacher_features is None:
        return {}
    found: dict[str, Value] = {}
    for size in sizes:
        draws = torch.Generator().manual_seed(seed)
        found[f"gpcl_batch_{size}"] = estimate_perception_coherence(
            of.student_features, of.teacher_features, batch_size=size, repeats=_REPEATS, generator=draws
        )[0]
    return found
