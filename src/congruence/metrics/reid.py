"""Re-identification: finding the same identity in pictures of other cameras."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from congruence.core import check
from congruence.geometry.dissimilarity import DissimilarityName, block_rows, dissimilarity_blocks
from congruence.metrics.order import flag_ranks

_CHECKS: dict[str, check.Constraint] = {"metric": check.Choice(("cosine", "euclidean")), "max_rank": check.COUNT}
_CHUNK_ENTRIES = 2**19
_log = logging.getLogger("congruence")


@dataclass(frozen=True, kw_only=True, eq=False)
class ReidResult:
    """The result of `reid_evaluate`.

    Args:
        map: mean average precision, a fraction.
        cmc: float64 [max_rank]; entry k − 1 is the share of queries with a match among the first k, so rank-1 is
            `cmc[0]`.
    """

    map: float
    cmc: Tensor


@torch.no_grad()
def reid_evaluate(
    query: Tensor,
    gallery: Tensor,
    query_ids: Tensor,
    gallery_ids: Tensor,
    query_cameras: Tensor,
    gallery_cameras: Tensor,
    *,
    metric: DissimilarityName = "euclidean",
    max_rank: int = 50,
) -> ReidResult:
    """Rank the gallery for each query, and find the query's identity in the pictures of other cameras.

    For each query, gallery items that have both its identity and its camera are dropped. Items with identity −1 are
    junk and are dropped from both sides. The average precision is the mean of P(i) over the ranks i of the matches,
    P(i) the share of matches among the first i. Both numbers are averages over the queries with a match left; the
    number of other queries is logged. Equal distances keep the order of the gallery.

    Shape:
        `query` [Q, D], `gallery` [N, D], `query_ids` and `query_cameras` [Q], `gallery_ids` and `gallery_cameras` [N].

    Args:
        query: embeddings.
        gallery: embeddings.
        query_ids: integer identities.
        gallery_ids: integer identities.
        query_cameras: integer cameras.
        gallery_cameras: integer cameras.
        metric: "euclidean" or "cosine".
        max_rank: length of the curve, which is constant beyond the gallery's size.

    Returns:
        ReidResult: `.map` and `.cmc`; NaN if no query has a match. Memory is about  40 max(16 N, 2¹⁹) + 16 (Q + N) D
            bytes.

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or an argument out of its range.

    Example:
        >>> import torch
        >>> query, query_id, query_camera = torch.tensor([[0.0]]), torch.tensor([7]), torch.tensor([0])
        >>> gallery, ids, cameras = torch.tensor([[1], [2], [3.0]]), torch.tensor([7, 8, 7]), torch.tensor([0, 1, 1])
        >>> scores = reid_evaluate(query, gallery, query_id, ids, query_camera, cameras, max_rank=3)
        >>> scores.map, scores.cmc.tolist()  # the nearest is the query's own camera's
        (0.5, [0.0, 1.0, 1.0])

    Reference:
        Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015.

    Deviations:
        Other implementations differ: one averages over all queries and uses the trapezoidal area under the
        precision-recall curve, another keeps junk in the gallery as distractors.
    """
    name = "reid_evaluate"
    check.hyperparameters(name, _CHECKS, metric=metric, max_rank=max_rank)
    check.floating(name, 2, query=query, gallery=gallery)
    check.same_width(name, query=query, gallery=gallery)
    check.class_labels(name, query_ids=query_ids, gallery_ids=gallery_ids)
    check.class_labels(name, query_cameras=query_cameras, gallery_cameras=gallery_cameras)
    check.same_rows(name, query=query, query_ids=query_ids, query_cameras=query_cameras)
    check.same_rows(name, gallery=gallery, gallery_ids=gallery_ids, gallery_cameras=gallery_cameras)
    check.finite(name, query=query, gallery=gallery)
    rows = block_rows(len(gallery), _CHUNK_ENTRIES)
    precisions, first = [], []
    blocks = dissimilarity_blocks(query, gallery, metric, rows)
    for distances, ids, cameras in zip(blocks, query_ids.split(rows), query_cameras.split(rows), strict=True):
        same = gallery_ids == ids[:, None]
        dropped = (gallery_ids == -1) | (same & (gallery_cameras == cameras[:, None]))
        distances.nan_to_num_(nan=torch.inf, posinf=torch.inf).masked_fill_(dropped, torch.nan)  # to the end
        ranks = flag_ranks(distances, same & ~dropped)
        ranks = ranks[ranks[:, 0].isfinite()]
        precision = torch.arange(1, ranks.shape[1] + 1, device=ranks.device) / ranks
        precisions.append(precision.sum(1) / ranks.isfinite().sum(1))
        first.append(ranks[:, 0].long())
    return _averages(torch.cat(precisions), torch.cat(first), len(query), max_rank)


def _averages(precisions: Tensor, first: Tensor, queries: int, max_rank: int) -> ReidResult:
    if len(precisions) < queries:
        missing = queries - len(precisions)
        _log.warning("`reid_evaluate`: %d of %d queries have no valid match and are left out.", missing, queries)
    counts = torch.bincount(first.clamp(max=max_rank + 1), minlength=max_rank + 2)[1:-1]
    return ReidResult(map=float(precisions.mean()), cmc=counts.cumsum(0).double() / len(first))
