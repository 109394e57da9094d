"""Information beyond the class: the spread within and between classes, and the entropy of soft labels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.numerics import as_float64
from congruence.metrics.class_sums import ClassSums, class_sums

CHECKS: Mapping[str, check.Constraint] = {
    "chunk_size": check.Real(low=1, closed="low", integer=True, optional=True),
    "temperature": check.POSITIVE,
}


@torch.no_grad()
def intra_class_similarity(embeddings: Tensor, labels: Tensor, *, chunk_size: int | None = None) -> float:
    """Mean e^{φ_i·φ_j} over pairs of one class, φ the unit rows: large where classes are tight.

    d_intra = E_{i≠j, y_i=y_j}[e^{φ_i·φ_j}], in [1/e, e].

    Shape:
        `embeddings` [N, D], `labels` [N].

    Args:
        embeddings: embeddings of the samples.
        labels: integer classes; rows without a label (negative) are left out.
        chunk_size: c, rows of the N×N matrix computed at once; None: 2¹⁹ entries, at least 32 rows. Memory is about 24
            c N + 40 N D bytes; only pairs within a class take time.

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or if no class has two samples.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
        >>> round(intra_class_similarity(rows, torch.tensor([0, 0, 1])), 4)  # e: the first two point one way
        2.7183

    Reference:
        Enriching Knowledge Distillation with Intra-Class Contrastive Learning, sec. 4.1.
    """
    sums = _sums("intra_class_similarity", embeddings, labels, chunk_size, between=False)
    pairs = int(sums.mates.sum())
    if not pairs:
        raise ValueError("`intra_class_similarity`: `labels` must have a class with two samples, got none.")
    return float(sums.near.sum()) / pairs


@torch.no_grad()
def inter_class_similarity(embeddings: Tensor, labels: Tensor, *, chunk_size: int | None = None) -> float:
    """Mean e^{φ_i·φ_j} over pairs of different classes, φ the unit rows: large where classes are near each other.

    d_inter = E_{y_i≠y_j}[e^{φ_i·φ_j}], in [1/e, e].

    Shape:
        `embeddings` [N, D], `labels` [N].

    Args:
        embeddings: embeddings of the samples.
        labels: integer classes; rows without a label (negative) are left out.
        chunk_size: see `intra_class_similarity`.

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or if there is only one class.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
        >>> inter_class_similarity(rows, torch.tensor([0, 0, 1]))  # at right angles
        1.0

    Reference:
        Enriching Knowledge Distillation with Intra-Class Contrastive Learning, sec. 4.1.
    """
    sums = _sums("inter_class_similarity", embeddings, labels, chunk_size, between=True)
    pairs = int(sums.others.sum())
    if not pairs:
        raise ValueError("`inter_class_similarity`: `labels` must have two classes, got fewer.")
    return float(sums.far.sum()) / pairs


@torch.no_grad()
def soft_label_entropy(logits: Tensor, *, temperature: float = 1.0) -> float:
    """Mean entropy of the soft labels, in nats: 0 for one-hot labels, log C for uniform ones.

    H = −(1/N) Σ_i Σ_c p_i[c] log p_i[c], p = softmax(logits / T).

    Shape:
        `logits` [N, C].

    Args:
        logits: logits of the samples.
        temperature: T > 0.

    Raises:
        ValueError: for a shape that does not fit, logits that are NaN or infinite (-inf masks a class), or a
            temperature out of its range.

    Example:
        >>> import torch
        >>> round(soft_label_entropy(torch.zeros(2, 4)), 4)  # log 4
        1.3863
    """
    check.floating("soft_label_entropy", 2, logits=logits)
    check.several_classes("soft_label_entropy", logits=logits)
    check.finite("soft_label_entropy", masked=True, logits=logits)
    check.hyperparameters("soft_label_entropy", CHECKS, temperature=temperature)
    shares = torch.softmax(as_float64(logits) / temperature, 1)
    return float(torch.special.entr(shares).sum(1).mean())


def _sums(function: str, embeddings: Tensor, labels: Tensor, chunk_size: int | None, *, between: bool) -> ClassSums:
    check.floating(function, 2, embeddings=embeddings)
    check.class_labels(function, labels=labels)
    check.same_rows(function, embeddings=embeddings, labels=labels)
    check.finite(function, embeddings=embeddings)
    check.hyperparameters(function, CHECKS, chunk_size=chunk_size)
    labelled = labels >= 0
    return class_sums(embeddings[labelled], labels[labelled], chunk_size, between=between)
