"""Retrieval by class: mean average precision, in the three readings that tables use, and precision at k."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from congruence.core import check
from congruence.geometry.dissimilarity import DissimilarityName, dissimilarity_blocks
from congruence.metrics.order import row_order

Interpolation = Literal["11pt", "none", "passalis"]
_METRIC = check.Choice(("cosine", "euclidean"))
_CHECKS: dict[str, check.Constraint] = {
    "metric": _METRIC,
    "interpolation": check.Choice(("11pt", "none", "passalis")),
    "query_batch": check.COUNT,
}
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
    - "passalis": the evaluation behind published tables, for comparison with them and nothing else. In a batch of b
      queries the maximum from the right is propagated over the first b ranks only; at each of the 11 levels the rank
      with the nearest recall, the first of ties, is read. The result depends on b = `query_batch`.

    Equal distances keep the order of the database. Queries without a relevant item are left out and counted in the log.

    Shape:
        `query` [Q, D], `query_labels` [Q], `database` [N, D], `database_labels` [N].

    Args:
        query: embeddings.
        query_labels: integer classes.
        database: embeddings; a query that is also in it is found like any other item.
        database_labels: integer classes.
        metric: "cosine" or "euclidean".
        interpolation: "11pt", "none" or "passalis".
        query_batch: queries ranked at a time; memory is linear in `query_batch` · N. It changes the value of
            "passalis" alone.

    Returns:
        A fraction in [0, 1]; NaN where no query has a relevant item.

    Raises:
        ValueError: for shapes that do not fit or an argument out of its range.

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
    _check_rows("retrieval_map", query, query_labels, database, database_labels)
    scores = []
    for hits in _ranked_hits(query, query_labels, database, database_labels, metric, query_batch):
        match interpolation:
            case "11pt":
                values = _eleven_point(hits)
            case "none":
                values = _plain(hits)
            case "passalis":
                values = _passalis(hits)
        scores.append(values[hits.any(1)])
    return _mean("retrieval_map", torch.cat(scores), query.shape[0])


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
        query_labels: integer classes.
        database: embeddings.
        database_labels: integer classes.
        k: how many items, from 1 to N.
        metric: "cosine" or "euclidean".

    Returns:
        A fraction in [0, 1]; NaN where no query has a relevant item.

    Raises:
        ValueError: for shapes that do not fit or an argument out of its range.

    Example:
        >>> import torch
        >>> database, labels = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 1, 0])
        >>> precision_at_k(torch.tensor([[0.0]]), torch.tensor([0]), database, labels, k=2, metric="euclidean")
        0.5

    Deviations:
        The "top-k" of published retrieval tables is an interpolated precision, at or above this one.
    """
    check.hyperparameters("precision_at_k", {"metric": _METRIC}, metric=metric)
    _check_rows("precision_at_k", query, query_labels, database, database_labels)
    bound = check.Real(low=1, high=database.shape[0], closed="both", integer=True)
    check.hyperparameters("precision_at_k", {"k": bound}, k=k)
    scores = [
        hits[:, :k].double().mean(1)[hits.any(1)]
        for hits in _ranked_hits(query, query_labels, database, database_labels, metric, 128)
    ]
    return _mean("precision_at_k", torch.cat(scores), query.shape[0])


def _check_rows(function: str, query: Tensor, query_labels: Tensor, database: Tensor, database_labels: Tensor) -> None:
    check.floating(function, 2, query=query, database=database)
    check.same_width(function, query=query, database=database)
    check.class_labels(function, query_labels=query_labels, database_labels=database_labels)
    check.same_rows(function, query=query, query_labels=query_labels)
    check.same_rows(function, database=database, database_labels=database_labels)


def _ranked_hits(
    query: Tensor, query_labels: Tensor, database: Tensor, database_labels: Tensor, metric: DissimilarityName, rows: int
) -> Iterator[Tensor]:
    """Yield, a block of queries at a time, whether the item at each rank is relevant: bool [rows, N]."""
    blocks = dissimilarity_blocks(query, database, metric, rows)
    for distances, labels in zip(blocks, query_labels.split(rows), strict=True):
        yield database_labels[row_order(distances)] == labels[:, None]


def _precision(hits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hits so far (int64) and the precision (float64) at every rank."""
    found = hits.cumsum(1)
    return found, found / torch.arange(1, hits.shape[1] + 1, device=hits.device, dtype=torch.float64)


def _from_right(values: Tensor) -> Tensor:
    return values.flip(1).cummax(1).values.flip(1)


def _eleven_point(hits: Tensor) -> Tensor:
    found, precision = _precision(hits)
    total = found[:, -1:]
    # The first rank with recall >= r/10, compared in integers: a recall of exactly 0.3 must reach level 0.3.
    levels = torch.arange(11, device=hits.device) * total
    first = torch.searchsorted((10 * found).contiguous(), levels.contiguous()).clamp(max=hits.shape[1] - 1)
    return _from_right(precision).gather(1, first).mean(1)


def _plain(hits: Tensor) -> Tensor:
    found, precision = _precision(hits)
    return (precision * hits).sum(1) / found[:, -1].clamp(min=1)


def _passalis(hits: Tensor) -> Tensor:
    found, precision = _precision(hits)
    head = min(hits.shape)
    precision[:, :head] = _from_right(precision[:, :head])
    recall = found / found[:, -1:].clamp(min=1).double()
    # 0.1 times an integer, not an integer by 10: ties between two ranks then break as in the released code.
    levels = torch.arange(11, device=hits.device, dtype=torch.float64) * 0.1
    ranks = torch.stack([(recall - level).abs().argmin(1) for level in levels], 1)
    return precision.gather(1, ranks).mean(1)


def _mean(function: str, scores: Tensor, queries: int) -> float:
    if len(scores) < queries:
        missing = queries - len(scores)
        _log.warning("`%s`: %d of %d queries have no relevant item and are left out.", function, missing, queries)
    return scores.mean().item()
