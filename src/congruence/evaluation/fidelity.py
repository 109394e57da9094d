"""Fidelity of an embedding: neighbours and retrieval that the student shares with its teacher, also of its prefixes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from congruence import metrics
from congruence.core import check
from congruence.evaluation.embeddings import Embeddings
from congruence.evaluation.from_embeddings import of_one_width
from congruence.evaluation.number import Value
from congruence.evaluation.protocol import Fitted, Protocol, ProtocolData, check_counts
from congruence.evaluation.published import rows
from congruence.geometry.dissimilarity import block_rows, dissimilarity_blocks
from congruence.metrics.order import nearest, row_nearest

_CHUNK_ENTRIES = 2**19


@dataclass(frozen=True)
class Fidelity(Protocol):
    """How well a student's embedding stands for its teacher's on the test samples, by cosine; needs no labels.

    - `neighbour_overlap_K`: the share of a sample's K nearest others that student and teacher have in common.
    - `linear_cka`: linear centred kernel alignment.
    - `asymmetric_overlap_K`: the same share if the student's rows look up the teacher's. Where widths differ, a linear
      map by least squares brings the student's rows to the teacher's width; each half of the samples is mapped as the
      other half asks.
    - `asymmetric_recall_1`: the share of samples whose own row is the nearest of all the teacher's to the student's.

    With `dims`, also the overlap, `linear_cka` and `gpcl` of the first d entries of the student's embedding, for each d
    (`neighbour_overlap_10_at_32`).

    Args:
        k: K, the number of neighbours.
        dims: widths of prefixes; None for none.

    Example:
        >>> from congruence.data import load
        >>> fitted = Fidelity(dims=(16,)).fit(ProtocolData(load("digits"), "digits"))
        >>> [number.key for number in fitted.numbers][:3]
        ['neighbour_overlap_10', 'linear_cka', 'asymmetric_overlap_10']
    """

    kind: ClassVar[str] = "fidelity"
    k: int = 10
    dims: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check.hyperparameters("Fidelity", {"k": check.COUNT}, k=self.k)
        if self.dims is not None:
            check_counts("Fidelity", "dims", self.dims)

    def fit(self, data: ProtocolData) -> Fitted:
        """Return the protocol on data with more than K + 1 test samples.

        Raises:
            ValueError: if there are fewer.
        """
        count = len(data.splits.test)
        if count < self.k + 2:
            raise self.refuse(f"{self.k + 2} test samples or more (`k`)", data, str(count))
        whole = [f"neighbour_overlap_{self.k}", "linear_cka", f"asymmetric_overlap_{self.k}", "asymmetric_recall_1"]
        cut = [name for dim in self.dims or () for name in _of_prefix(self.k, dim)]
        return Fitted(self.kind, rows([*whole, *cut]), functools.partial(_measure, k=self.k, dims=self.dims or ()))


def _of_prefix(k: int, dim: int) -> list[str]:
    return [f"{name}_at_{dim}" for name in (f"neighbour_overlap_{k}", "gpcl", "linear_cka")]


def _measure(of: Embeddings, _: Mapping[str, Tensor], *, k: int, dims: tuple[int, ...]) -> dict[str, Value]:
    if of.teacher_features is None:
        return {}
    student, teacher = of.both()
    mapped = of.projected if of.projected is not None else of_one_width(student, teacher)[0]
    values: dict[str, Value] = {
        f"neighbour_overlap_{k}": metrics.neighbour_overlap(student, teacher, k=k),
        "linear_cka": metrics.linear_cka(student, teacher),
        **asymmetric_retrieval(mapped, teacher, k=k),
    }
    for dim in dims:
        if dim > student.shape[1]:
            check.fail("Fidelity", "dims", f"numbers up to the embedding's width {student.shape[1]}", dim)
        part = student[:, :dim]
        found = (
            metrics.neighbour_overlap(part, teacher, k=k),
            metrics.global_perception_coherence(part, teacher),
            metrics.linear_cka(part, teacher),
        )
        values |= dict(zip(_of_prefix(k, dim), found, strict=True))
    return values


def asymmetric_retrieval(query: Tensor, gallery: Tensor, *, k: int) -> dict[str, Value]:
    """Look the rows of one model up among those of another, by cosine, see `Fidelity`.

    Shape:
        `query` and `gallery` [N, D], the same samples in the same order; N > k + 1. Memory is linear in N.

    Example:
        >>> x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
        >>> asymmetric_retrieval(2 * x, x, k=3)
        {'asymmetric_overlap_3': 1.0, 'asymmetric_recall_1': 1.0}
    """
    query, gallery = query.to(gallery.dtype), gallery.to(query.dtype)
    step = block_rows(len(gallery), _CHUNK_ENTRIES)
    theirs = nearest(gallery, gallery, "cosine", k, rows=step, apart=True)
    start, own, shared = 0, 0, 0
    for values, expected in zip(dissimilarity_blocks(query, gallery, "cosine", step), theirs, strict=True):
        here = torch.arange(start, start + len(values))
        own += int((row_nearest(values.clone(), 1)[:, 0] == here).sum())
        values[torch.arange(len(values)), here] = torch.inf
        both = torch.cat([row_nearest(values, k), expected], 1).sort(1).values
        shared += int((both[:, 1:] == both[:, :-1]).sum())
        start += len(values)
    return {f"asymmetric_overlap_{k}": shared / (k * len(query)), "asymmetric_recall_1": own / len(query)}
