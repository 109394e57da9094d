"""Retrieval of test images: among the training images, or in an open set among themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from congruence.data.datasets import split
from congruence.evaluation.embeddings import Embeddings, given
from congruence.metrics import retrieval_map


def map_on_test(of: Embeddings) -> float | None:
    """11-point interpolated mAP by cosine, training images as database and test images as queries.

    In an open set, where no test image has a training class, half of the test images of each class (always the same)
    are the database of the others. None where a side has no labels, or none but missing ones.
    """
    features, labels = of.student_features, of.labels
    database, database_labels = given(of.database)
    if labels is None or database_labels is None:
        return None
    labelled = database_labels >= 0
    if not bool((labels >= 0).any()) or not bool(labelled.any()):
        return None
    if not bool(torch.isin(labels[labels >= 0], database_labels).any()):
        return _open_set(features, labels)
    return retrieval_map(features, labels, database[labelled], database_labels[labelled])


def _open_set(features: Tensor, labels: Tensor) -> float | None:
    """Retrieve one half of the labelled images of each class by the other; None where a half would be empty."""
    features, labels = features[labels >= 0], labels[labels >= 0]
    database, query = split.stratified(labels, len(labels) // 2, seed=0, stream=split.DATABASE)
    if not len(database):
        return None
    return retrieval_map(features[query], labels[query], features[database], labels[database])
