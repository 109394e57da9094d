"""Retrieval by class: mean average precision, in the three variants used in tables, and two precisions at k."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.threads import share_out
from congruence.geometry.dissimilarity import DissimilarityName, block_maker, block_rows
from congruence.metrics.labelled import labelled
from congruence.metrics.order import flag_ranks, nearest

Interpolation = Literal["11pt", "none", "passalis"]
_METRIC = check.Choice(("cosine", "euclidean"))
_CHECKS: dict[str, check.Constraint] = {
    "metric": _METRIC,
    "interpolation": check.Choice(("11pt", "none", "passalis")),
    "query_batch": check.COUNT,
}
_CHUNK_ENTRIES = 2**19  # a block and the memory for sorting it stay in the processor's caches
_RANKED_ENTRIES = 2**21  # a product of more rows is faster; its result is sorted a few rows at a time
_log = logging.getLogger("congruence")


@torch.no_grad()
def retrieval_map(
    query: Tensor,
    query_labels: Tensor,
    database: Tensor,
    database_labels: Tensor,
    *,
    metric: DissimilarityName = "cosine",
    interpolation: Interpolation = "11pt",
    query_batch: int = 128,
) -> float:
    """Mean average precision of ranking the database for each query; an item is relevant if it has the query's class.

    With P(i) the precision among the first i items and R(i) the recall:

    - "11pt": mean over r in {0, 0.1, …, 1} of max{P(i) : R(i) >= r}.
    - "none": mean of P(i) over the ranks i of the relevant items.
    - "passalis": the evaluation behind published tables, meant only for comparison with them. In a batch of b
      queries the maximum from the right is propagated over the first b ranks only; at each of the 11 levels the rank
      with the nearest recall, the first of ties, is read. The result depends on b = `query_batch`.

    Equal distances keep the order of the database. Queries without a relevant item are left out and counted in the log.

    Shape:
        `query` [Q, D], `query_labels` [Q], `database` [N, D], `database_labels` [N].

    Args:
        query: embeddings.
        query_labels: integer classes; queries without a label (negative) are left out.
        database: embeddings; a query that is also in it is found like any other item.
        database_labels: integer classes; items without a label are left out.
        metric: "cosine" or "euclidean".
        interpolation: "11pt", "none" or "passalis".
        query_batch: b, queries ranked at once. It only affects the value of "passalis"; the others use fewer queries,
            at least 16, if b would exceed 2²¹ distances. Memory is about 40 b N + 16 (Q + N) D bytes,
            40 b N more for each further thread.

    Returns:
        A fraction in [0, 1]; NaN if no query has a relevant item.

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or an argument out of its range.

    Example:
        >>> import torch
        >>> database, labels = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 1, 0])
        >>> options = {"metric": "euclidean", "interpolation": "none"}
        >>> round(retrieval_map(torch.tensor([[0.0]]), torch.tensor([0]), database, labels, **options), 6)
        0.833333

    Reference:
        Passalis and Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018, for
        "passalis": the released evaluation code.

    Deviations:
        "passalis" leaves out queries without a relevant item, on which the released code fails; they still count in b.
    """
    check.hyperparameters("retrieval_map", _CHECKS, metric=metric, interpolation=interpolation, query_batch=query_batch)
    query, query_labels, database, database_labels = _labelled(
        "retrieval_map", query, query_labels, database, database_labels
    )
    if not len(query) or not len(database):
        return math.nan
    rows = query_batch
    if interpolation != "passalis":
        rows = min(rows, block_rows(len(database), _RANKED_ENTRIES))
    block = block_maker(query, database, metric)
    # One tensor for all: a small result a block, kept while large ones come and go, would leave the heap full of holes.
    scores = torch.full((len(query),), torch.nan, dtype=torch.float64, device=query.device)
    found = torch.zeros(len(query), dtype=torch.bool, device=query.device)

    def work(start: int) -> None:
        part = slice(start, start + rows)
        labels = query_labels[part]
        ranks = flag_ranks(block(part), database_labels == labels[:, None])
        has = found[part] = ranks[:, 0].isfinite()
        ranks = ranks[has]
        match interpolation:
            case "11pt":
                scores[part][has] = _eleven_point(ranks)
            case "none":
                scores[part][has] = _plain(ranks)
            case "passalis":
                scores[part][has] = _passalis(ranks, min(len(labels), len(database)))

    share_out(work, range(0, len(query), rows), query.device)
    return _mean("retrieval_map", scores[found], query.shape[0])


@torch.no_grad()
def precision_at_k(
    query: Tensor,
    query_labels: Tensor,
    database: Tensor,
    database_labels: Tensor,
    *,
    k: int,
    metric: DissimilarityName = "cosine",
) -> float:
    """Share of the k nearest database items that have the query's class, averaged over queries.

    Equal distances keep the order of the database. Queries without a relevant item are left out and counted in the log.

    Shape:
        `query` [Q, D], `query_labels` [Q], `database` [N, D], `database_labels` [N].

    Args:
        query: embeddings.
        query_labels: integer classes; queries without a label (negative) are left out.
        database: embeddings.
        database_labels: integer classes; items without a label are left out.
        k: number of items, from 1 to the number of labelled items.
        metric: "cosine" or "euclidean".

    Returns:
        A fraction in [0, 1]; NaN if no query has a relevant item. Memory is about
        40 max(16 N, 2¹⁹) + 16 (Q + N) D bytes.

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or an argument out of its range.

    Example:
        >>> import torch
        >>> database, labels = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 1, 0])
        >>> precision_at_k(torch.tensor([[0.0]]), torch.tensor([0]), database, labels, k=2, metric="euclidean")
        0.5

    Deviations:
        The "top-k" of published retrieval tables is an interpolated precision, at or above this one:
        `interpolated_precision_at_k`.
    """
    check.hyperparameters("precision_at_k", {"metric": _METRIC}, metric=metric)
    query, query_labels, database, database_labels = _labelled(
        "precision_at_k", query, query_labels, database, database_labels
    )
    if not len(query) or not len(database):
        return math.nan
    bound = check.Real(low=1, high=database.shape[0], closed="both", integer=True)
    check.hyperparameters("precision_at_k", {"k": bound}, k=k)
    blocks = nearest_hits(query, query_labels, database, database_labels, k, metric)
    scores = torch.cat([hits.double().mean(1) for hits in blocks])
    return _mean("precision_at_k", scores[torch.isin(query_labels, database_labels)], query.shape[0])


@torch.no_grad()
def interpolated_precision_at_k(
    query: Tensor,
    query_labels: Tensor,
    database: Tensor,
    database_labels: Tensor,
    *,
    k: int,
    metric: DissimilarityName = "cosine",
    query_batch: int = 128,
) -> float:
    """The "top-k" of published retrieval tables, for comparison with them only; `precision_at_k` is the usual number.

    With P(j) the precision among the first j items, it is the mean over queries of max{P(j) : k <= j <= b}, and of P(k)
    where k > b. b is the number of queries in the batch, so the result depends on `query_batch`; the last batch may be
    smaller.

    Shape:
        `query` [Q, D], `query_labels` [Q], `database` [N, D], `database_labels` [N].

    Args:
        query: embeddings.
        query_labels: integer classes; queries without a label (negative) are left out.
        database: embeddings.
        database_labels: integer classes; items without a label are left out.
        k: number of items, from 1 to the number of labelled items.
        metric: "cosine" or "euclidean".
        query_batch: queries ranked at once.

    Returns:
        A fraction in [0, 1]; NaN if no query has a relevant item.

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or an argument out of its range.

    Example:
        >>> import torch
        >>> database, labels = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1, 0, 0])
        >>> data = torch.zeros(3, 1), torch.tensor([0, 0, 0]), database, labels
        >>> round(interpolated_precision_at_k(*data, k=1, metric="euclidean"), 6)
        0.666667

    Reference:
        Passalis and Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018: the
        released evaluation code.

    Deviations:
        Queries without a relevant item are left out; they still count in b. The released code fails on them.
    """
    sides = query, query_labels, database, database_labels
    return interpolated_precisions(*sides, ks=(k,), metric=metric, query_batch=query_batch)[k]


def interpolated_precisions(
    query: Tensor,
    query_labels: Tensor,
    database: Tensor,
    database_labels: Tensor,
    *,
    ks: Sequence[int],
    metric: DissimilarityName = "cosine",
    query_batch: int = 128,
) -> dict[int, float]:
    """Return `interpolated_precision_at_k` for several k, all of one ranking."""
    name = "interpolated_precision_at_k"
    given = {"metric": metric, "query_batch": query_batch}
    check.hyperparameters(name, {key: _CHECKS[key] for key in given}, **given)
    query, query_labels, database, database_labels = _labelled(name, query, query_labels, database, database_labels)
    if not len(query) or not len(database):
        return dict.fromkeys(ks, math.nan)
    bound = check.Real(low=1, high=database.shape[0], closed="both", integer=True)
    for k in ks:
        check.hyperparameters(name, {"k": bound}, k=k)
    count = min(max((*ks, query_batch)), len(database))
    scores = []
    for rows, labels in zip(query.split(query_batch), query_labels.split(query_batch), strict=True):
        (hits,) = nearest(rows, database, metric, count, rows=query_batch)
        found = (database_labels[hits] == labels[:, None]).double().cumsum(1)
        precision = found / torch.arange(1, count + 1, device=found.device)
        reach = min(len(labels), count)
        scores.append(torch.stack([precision[:, k - 1 : max(k, reach)].amax(1) for k in ks], 1))
    kept = torch.cat(scores)[torch.isin(query_labels, database_labels)]
    return {k: _mean(name, kept[:, place], query.shape[0]) for place, k in enumerate(ks)}


def nearest_hits(
    query: Tensor, query_labels: Tensor, database: Tensor, database_labels: Tensor, k: int, metric: DissimilarityName
) -> Iterator[Tensor]:
    """Yield, for blocks of b queries, whether each of the k nearest items has the query's class: bool [b, k]."""
    rows = block_rows(len(database), _CHUNK_ENTRIES)
    blocks = nearest(query, database, metric, k, rows=rows)
    for items, labels in zip(blocks, query_labels.split(rows), strict=True):
        yield database_labels[items] == labels[:, None]


def _labelled(
    function: str, query: Tensor, query_labels: Tensor, database: Tensor, database_labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Check both sides, and return the labelled rows."""
    check.floating(function, 2, query=query, database=database)
    check.same_width(function, query=query, database=database)
    check.class_labels(function, query_labels=query_labels, database_labels=database_labels)
    check.same_rows(function, query=query, query_labels=query_labels)
    check.same_rows(function, database=database, database_labels=database_labels)
    check.finite(function, query=query, database=database)
    return *labelled(query, query_labels), *labelled(database, database_labels)


def _precision(ranks: Tensor) -> Tensor:
    """Return the precision at every relevant item, 0 after the last; precision is never larger between two of them."""
    return torch.arange(1, ranks.shape[1] + 1, device=ranks.device) / ranks


def _from_right(values: Tensor) -> Tensor:
    return values.flip(1).cummax(1).values.flip(1)


def _eleven_point(ranks: Tensor) -> Tensor:
    # The first item with recall >= r/10, counted in integers: a recall of exactly 0.3 must reach level 0.3.
    levels = torch.arange(11, device=ranks.device) * ranks.isfinite().sum(1, keepdim=True)
    first = ((levels + 9) // 10 - 1).clamp(min=0)
    return _from_right(_precision(ranks)).gather(1, first).mean(1)


def _plain(ranks: Tensor) -> Tensor:
    return _precision(ranks).sum(1) / ranks.isfinite().sum(1)


def _passalis(ranks: Tensor, head: int) -> Tensor:
    # Before the first relevant item, if there is a rank before it, recall and precision are 0.
    ranks = torch.cat([torch.where(ranks[:, :1] > 1, 1.0, torch.inf), ranks], 1)
    relevant = torch.arange(ranks.shape[1], device=ranks.device)
    precision = relevant / ranks
    largest = _from_right(precision.where(ranks <= head, 0))
    precision = largest.where(ranks <= head, precision)
    recall = (relevant / (ranks[:, 1:].isfinite().sum(1, keepdim=True)).double()).where(ranks.isfinite(), torch.inf)
    # 0.1 times an integer, not an integer divided by 10: ties between two ranks then break as in the released code.
    levels = torch.arange(11, device=ranks.device, dtype=torch.float64) * 0.1
    chosen = torch.stack([(recall - level).abs().argmin(1) for level in levels], 1)
    return precision.gather(1, chosen).mean(1)


def _mean(function: str, scores: Tensor, queries: int) -> float:
    if len(scores) < queries:
        missing = queries - len(scores)
        _log.warning("`%s`: %d of %d queries have no relevant item and are left out.", function, missing, queries)
    return scores.mean().item()
