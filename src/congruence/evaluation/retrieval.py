"""Retrieval of test images: among the training images, in an open set among themselves, in the teacher's index."""

from __future__ import annotations

import torch
from torch import Tensor

from congruence.data.datasets import split
from congruence.evaluation.compared import QUERIES, TOPS
from congruence.evaluation.drawn import shuffled
from congruence.evaluation.embeddings import Embeddings, given
from congruence.evaluation.number import Value
from congruence.geometry.dissimilarity import block_rows, dissimilarity_blocks
from congruence.metrics import retrieval_map
from congruence.metrics.order import flag_ranks

_CHUNK_ENTRIES = 2**19


def map_on_test(of: Embeddings) -> float | None:
    """11-point interpolated mAP by cosine, training images as database and test images as queries.

    In an open set, where no test image has a training class, half of the test images of each class (always the same)
    are the database of the others. None if a side has no labels, or none but missing ones.
    """
    sides = queries_and_database(of)
    return None if sides is None else retrieval_map(*sides)


def queries_and_database(of: Embeddings) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Return features and labels of what looks up and of what is looked up, as `map_on_test` says; None as there."""
    features, labels = of.student_features, of.labels
    database, database_labels = given(of.database)
    if labels is None or database_labels is None:
        return None
    labelled = database_labels >= 0
    if not bool((labels >= 0).any()) or not bool(labelled.any()):
        return None
    if not bool(torch.isin(labels[labels >= 0], database_labels).any()):
        return _open_set(features, labels)
    return features, labels, database[labelled], database_labels[labelled]


def _open_set(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Return one half of the labelled images of each class, and the other; None if a half would be empty."""
    features, labels = features[labels >= 0], labels[labels >= 0]
    database, query = halves(labels)
    if not len(database):
        return None
    return features[query], labels[query], features[database], labels[database]


def halves(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions of the samples that are the database of an open set, and those of the queries."""
    return split.stratified(labels, len(labels) // 2, seed=0, stream=split.DATABASE)


def leave_one_out(of: Embeddings) -> dict[str, Value]:
    """Retrieval of the samples by one another, by cosine: mAP and recall at k, see `search`."""
    return {f"retrieval_{name}": value for name, value in search(of.student_features, of.student_features, of).items()}


def asymmetric(of: Embeddings) -> dict[str, Value]:
    """The student's queries in the teacher's index: its features, or their projection, among the teacher's."""
    query = of.student_features if of.projected is None else of.projected
    found = search(query, given(of.teacher_features), of)
    return {f"asymmetric_retrieval_{name}": value for name, value in found.items()}


def search(query: Tensor, gallery: Tensor, of: Embeddings) -> dict[str, Value]:
    """Look labelled samples up among the others by cosine; relevant is what has the query's class.

    `map` is the mean over queries of the mean precision at the relevant items; `recall_at_k` is the share of queries
    with a relevant item among the k nearest. At most 1,000 drawn queries, among all labelled samples but themselves;
    those alone in their class are left out. Equal distances go by a shuffle of the gallery, so that its order by
    classes rewards nobody. Memory is linear in the samples.

    Shape:
        `query` and `gallery` [N, D], of the samples of `of`.
    """
    rows, labels = of.labelled()
    order = shuffled(len(rows))
    rows, labels = rows[order], labels[order]
    gallery, query = gallery[rows], query[rows[:QUERIES]]
    step, start = block_rows(len(rows), _CHUNK_ENTRIES), 0
    precision, first = [], []
    for block in dissimilarity_blocks(query, gallery, "cosine", step):
        # The queries are the first of the gallery, in its order.
        own = torch.arange(start, start + len(block))
        relevant = labels[own, None] == labels
        place = torch.arange(len(block))
        relevant[place, own] = False
        block[place, own] = torch.inf
        ranks = flag_ranks(block, relevant)
        ranks = ranks[ranks[:, 0].isfinite()]
        hits = torch.arange(1, ranks.shape[1] + 1) / ranks
        precision.append(hits.sum(1) / ranks.isfinite().sum(1))
        first.append(ranks[:, 0])
        start += len(block)
    nearest = torch.cat(first)
    if not len(nearest):
        return dict.fromkeys(("map", *(f"recall_at_{k}" for k in TOPS)))
    tops: dict[str, Value] = {f"recall_at_{k}": float((nearest <= k).double().mean()) for k in TOPS}
    return {"map": float(torch.cat(precision).mean()), **tops}
