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
    """Return one half of the labelled images of each class, and the other; None where a half would be empty."""
    features, labels = features[labels >= 0], labels[labels >= 0]
    database, query = halves(labels)
    if not len(database):
        return None
    return features[query], labels[query], features[database], labels[database]


def halves(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions of the samples that are the database of an open set, and those of the queries."""
    return split.stratified(labels, len(labels) // 2, seed=0, stream=split.DATABASE)
