"""Metrics of nearest neighbours: recall at k, nearest-neighbour accuracy, and neighbours that two spaces share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from congruence.core import check
from congruence.geometry.dissimilarity import DissimilarityName, block_rows
from congruence.metrics.labelled import labelled
from congruence.metrics.order import nearest

_METRIC = check.Choice(("cosine", "euclidean"))
_CHUNK_ENTRIES = 2**19


@torch.no_grad()
def recall_at_k(
    embeddings: Tensor, labels: Tensor, *, ks: Sequence[int] = (1, 2, 4, 8), metric: DissimilarityName = "euclidean"
) -> list[float]:
    """Share of samples with a sample of their class among their k nearest others, for each k.

    Equal distances keep the order of the samples. A sample alone in its class is a miss at every k; a k above N − 1 is
    treated as N − 1.

    Shape:
        `embeddings` [N, D], `labels` [N], N >= 2.

    Args:
        embeddings: embeddings of the samples.
        labels: integer classes; samples without a label (negative) are left out.
        ks: values of k >= 1.
        metric: "euclidean" or "cosine".

    Returns:
        One fraction for each k, in the order of `ks`. Memory is about 40 max(16 N, 2¹⁹) + 32 N D bytes.

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, a single labelled sample, or an
            argument out of its range.

    Example:
        >>> import torch
        >>> recall_at_k(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0, 1, 0]), ks=(1, 2))
        [0.0, 0.6666666666666666]

    Reference:
        Oh Song et al., Deep Metric Learning via Lifted Structured Feature Embedding, CVPR 2016, sec. 6.
    """
    name = "recall_at_k"
    check.hyperparameters(name, {"metric": _METRIC}, metric=metric)
    check.floating(name, 2, embeddings=embeddings)
    check.class_labels(name, labels=labels)
    check.same_rows(name, embeddings=embeddings, labels=labels)
    check.finite(name, embeddings=embeddings)
    if len(embeddings) < 2:
        check.fail(name, "embeddings", "two samples or more", check.shape(embeddings))
    embeddings, labels = labelled(embeddings, labels)
    most = len(embeddings) - 1
    if most < 1:
        check.fail(name, "labels", "of two labelled samples or more", len(labels))
    for k in ks:
        check.hyperparameters(name, {"ks": check.COUNT}, ks=k)
    rows = block_rows(len(embeddings), _CHUNK_ENTRIES)
    wanted = min(max(ks, default=1), most)
    hits_within = torch.zeros(wanted, dtype=torch.int64, device=embeddings.device)
    blocks = nearest(embeddings, embeddings, metric, wanted, rows=rows, apart=True)
    for neighbours, own in zip(blocks, labels.split(rows), strict=True):
        hits = labels[neighbours] == own[:, None]
        hits_within += (hits.cumsum(1) > 0).sum(0)
    return [int(hits_within[min(k, most) - 1]) / len(embeddings) for k in ks]


@torch.no_grad()
def knn_accuracy(
    query: Tensor,
    query_labels: Tensor,
    database: Tensor,
    database_labels: Tensor,
    *,
    k: int = 20,
    metric: DissimilarityName = "cosine",
) -> float:
    """Accuracy of giving each query the class that most of its k nearest database items have.

    Every neighbour has one vote. Of classes with equally many votes, the one with the nearest item wins. Equal
    distances keep the order of the database.

    Shape:
        `query` [Q, D], `query_labels` [Q], `database` [N, D], `database_labels` [N].

    Args:
        query: embeddings, for example of test samples.
        query_labels: integer classes; queries without a label (negative) are left out.
        database: embeddings, for example of training samples; a query that is also in it is found like any other item.
        database_labels: integer classes; items without a label have no vote.
        k: number of neighbours that vote; above N it is treated as N.
        metric: "cosine" or "euclidean".

    Returns:
        A fraction in [0, 1]. Memory is about 40 max(16 N, 2¹⁹) + 16 (Q + N) D bytes.

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or an argument out of its range.

    Example:
        >>> import torch
        >>> database, labels = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 1, 1])
        >>> [knn_accuracy(torch.tensor([[0.0]]), torch.tensor([1]), database, labels, k=k, metric="euclidean")
        ...  for k in (1, 2, 3)]
        [0.0, 0.0, 1.0]
    """
    name = "knn_accuracy"
    check.hyperparameters(name, {"k": check.COUNT, "metric": _METRIC}, k=k, metric=metric)
    check.floating(name, 2, query=query, database=database)
    check.same_width(name, query=query, database=database)
    check.class_labels(name, query_labels=query_labels, database_labels=database_labels)
    check.same_rows(name, query=query, query_labels=query_labels)
    check.same_rows(name, database=database, database_labels=database_labels)
    check.finite(name, query=query, database=database)
    query, query_labels = labelled(query, query_labels)
    database, database_labels = labelled(database, database_labels)
    for argument, labels in (("query_labels", query_labels), ("database_labels", database_labels)):
        if not len(labels):
            check.fail(name, argument, "of one labelled sample or more", "none")
    rows = block_rows(len(database), _CHUNK_ENTRIES)
    classes, class_numbers = database_labels.unique(return_inverse=True)
    right = 0
    blocks = nearest(query, database, metric, min(k, len(database)), rows=rows)
    for neighbours, own in zip(blocks, query_labels.split(rows), strict=True):
        found = class_numbers[neighbours]
        counts = torch.zeros(len(own), len(classes), device=query.device)
        votes = counts.scatter_add_(1, found, torch.ones_like(found, dtype=counts.dtype)).gather(1, found)
        answer = found.gather(1, votes.argmax(1, keepdim=True))  # argmax returns the first of equal values: the nearest
        right += int((classes[answer[:, 0]] == own).sum())
    return right / len(query)


@torch.no_grad()
def neighbour_overlap(student: Tensor, teacher: Tensor, *, k: int, metric: DissimilarityName = "cosine") -> float:
    """Share of a sample's k nearest neighbours that both spaces have in common, averaged over the samples.

    (1/N) Σ_i |N_k^s(i) ∩ N_k^t(i)| / k, where N_k(i) does not include i. Equal distances keep the order of the samples.
    For unrelated spaces, the expected share is k/(N − 1).

    Shape:
        `student` [N, D_s], `teacher` [N, D_t], widths may differ, N >= 2.

    Args:
        student: embeddings.
        teacher: embeddings.
        k: number of neighbours, from 1 to N − 1.
        metric: "cosine" or "euclidean", for both.

    Returns:
        A fraction in [0, 1]. Memory is about 50 max(16 N, 2¹⁹) + 32 N (D_s + D_t) bytes.

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or an argument out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
        >>> [neighbour_overlap(teacher.roll(1, 0), teacher, k=k, metric="euclidean") for k in (1, 3)]
        [0.5, 1.0]

    Reference:
        Huh et al., The Platonic Representation Hypothesis, ICML 2024, app. A.
    """
    name = "neighbour_overlap"
    check.floating(name, 2, student=student, teacher=teacher)
    check.same_rows(name, student=student, teacher=teacher)
    check.finite(name, student=student, teacher=teacher)
    if len(student) < 2:
        check.fail(name, "student", "two samples or more", check.shape(student))
    bound = check.Real(low=1, high=len(student) - 1, closed="both", integer=True)
    check.hyperparameters(name, {"k": bound, "metric": _METRIC}, k=k, metric=metric)
    rows = block_rows(len(student), _CHUNK_ENTRIES)
    shared = 0
    sides = (nearest(side, side, metric, k, rows=rows, apart=True) for side in (student, teacher))
    for ours, theirs in zip(*sides, strict=True):
        both = torch.cat([ours, theirs], 1).sort(1).values
        shared += int((both[:, 1:] == both[:, :-1]).sum())
    return shared / (k * len(student))
