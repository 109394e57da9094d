"""Content-based retrieval: test samples are queries for the training samples of their class."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from congruence.core import check
from congruence.evaluation.embeddings import Embeddings
from congruence.evaluation.number import Value
from congruence.evaluation.protocol import Fitted, Protocol, ProtocolData, check_counts
from congruence.evaluation.published import rows
from congruence.evaluation.retrieval import halves, queries_and_database
from congruence.metrics import retrieval_map
from congruence.metrics.retrieval import interpolated_precisions, nearest_hits

KS = (1, 5, 10, 50, 100)


@dataclass(frozen=True)
class ContentBased(Protocol):
    """Mean average precision and precision at k, by cosine: of 11 points (`retrieval_map`, which every run has), and:

    - `retrieval_map_published`: as computed by the code behind the published tables (`retrieval_map` of
      `congruence.metrics` with `interpolation="passalis"`), which depends on `query_batch`; for comparison with these.
    - `retrieval_top_K`: the share of the K nearest that have the query's class, averaged over queries.
    - `retrieval_top_K_published`: the top-k of the published tables, which is interpolated, at or above that share
      (`metrics.interpolated_precision_at_k`); it depends on `query_batch` too.

    In an open set, where no test sample has a training class, a fixed half of the test samples of each class is the
    database for the others.

    Args:
        ks: values of K; None: those of 1, 5, 10, 50 and 100 that do not exceed the database's size.
        query_batch: queries that the published code ranks at once.

    Example:
        >>> from congruence.data import load
        >>> fitted = ContentBased(ks=(1, 10)).fit(ProtocolData(load("digits"), "digits"))
        >>> [number.key for number in fitted.numbers][:3]
        ['retrieval_map_published', 'retrieval_top_1', 'retrieval_top_1_published']
    """

    kind: ClassVar[str] = "retrieval"
    ks: tuple[int, ...] | None = None
    query_batch: int = 128

    def __post_init__(self) -> None:
        if self.ks is not None:
            check_counts("ContentBased", "ks", self.ks)
        check.hyperparameters("ContentBased", {"query_batch": check.COUNT}, query_batch=self.query_batch)

    def fit(self, data: ProtocolData) -> Fitted:
        """Return the protocol on data with labels on both sides.


        Raises:
            ValueError: if a side has none, or the database is smaller than the largest K.
        """
        labels, train = self.test_labels(data), data.splits.train.labels
        if train is None or not bool((train >= 0).any()):
            raise self.refuse("labelled training samples, its database", data, "none")
        size = len(halves(labels[labels >= 0])[0]) if self.of_new_classes(data) else int((train >= 0).sum())
        ks = tuple(k for k in KS if k <= size) if self.ks is None else self.ks
        if not size or max(ks) > size:
            raise self.refuse(f"a database of {max(ks, default=1)} labelled samples or more (`ks`)", data, str(size))
        tops = [key for k in ks for key in (f"retrieval_top_{k}", f"retrieval_top_{k}_published")]
        keys = ["retrieval_map_published", *tops]
        measure = functools.partial(_measure, ks=ks, query_batch=self.query_batch)
        return Fitted(self.kind, rows(keys), measure, database=True)


def _measure(of: Embeddings, _: Mapping[str, Tensor], *, ks: tuple[int, ...], query_batch: int) -> dict[str, Value]:
    sides = queries_and_database(of)
    if sides is None:
        return {}
    query, query_labels, database, database_labels = sides
    kept = torch.isin(query_labels, database_labels)  # of the others `retrieval_map` tells
    with_mates = query[kept], query_labels[kept], database, database_labels
    mean = retrieval_map(*sides, interpolation="passalis", query_batch=query_batch)
    reached = [k for k in ks if k <= len(database)]
    tops = interpolated_precisions(*sides, ks=reached, query_batch=query_batch) if reached else {}
    interpolated = {f"retrieval_top_{k}_published": value for k, value in tops.items()}
    return {"retrieval_map_published": mean, **_precisions(*with_mates, reached), **interpolated}


def _precisions(
    query: Tensor, query_labels: Tensor, database: Tensor, database_labels: Tensor, ks: list[int]
) -> dict[str, Value]:
    """Return `metrics.precision_at_k` for several k, all of one ranking."""
    if not ks or not len(query):
        return {}
    sums = torch.zeros(max(ks), dtype=torch.int64)
    for hits in nearest_hits(query, query_labels, database, database_labels, max(ks), "cosine"):
        sums += hits.sum(0)
    found = sums.cumsum(0)
    return {f"retrieval_top_{k}": int(found[k - 1]) / (k * len(query)) for k in ks}
