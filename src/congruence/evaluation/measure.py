"""A student's test numbers: accuracy, retrieval, coherence with its teacher, and size."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from congruence.data.datasets import split
from congruence.data.datasets.images import ImageDataset
from congruence.data.loading.loader import loader
from congruence.data.sources.load import Splits
from congruence.evaluation.embed import Embedded, embed, known_accuracy
from congruence.losses import wasserstein_loss
from congruence.metrics import (
    global_perception_coherence,
    inter_class_similarity,
    intra_class_similarity,
    kernel_transfer_error,
    retrieval_map,
    soft_label_entropy,
)
from congruence.models.parameters import count_parameters

BATCH = 100
TRANSPORTED = 2000


@dataclass(frozen=True)
class Measurement:
    """Test numbers of one model; those that cannot be had are None.

    Args:
        accuracy: top-1, a fraction; None where the model lacks a class of the test images.
        retrieval_map: 11-point interpolated mAP by cosine, training images as database and test images as queries. In
            an open set, where no test image has a training class, half of the test images of each class (always the
            same) are the database of the others.
        gpcl: global perception coherence with the teacher on the test images, by cosine.
        kernel_transfer_error: ‖K_S − K_T‖_F/‖K_T‖_F on the test images, K the cosines of the embeddings: most methods
            leave their lengths free.
        wasserstein: W2² between the embeddings of the first 2,000 test images, the most that an exact plan takes well;
            None where the teacher's have another width.
        soft_label_entropy: mean over the test images, in nats.
        intra_class_similarity: mean e^cosine of two test images of one class: large where classes are tight.
        inter_class_similarity: the same of two classes.
        parameters: of the model.
    """

    accuracy: float | None
    retrieval_map: float | None
    gpcl: float | None
    kernel_transfer_error: float | None
    wasserstein: float | None
    soft_label_entropy: float | None
    intra_class_similarity: float | None
    inter_class_similarity: float | None
    parameters: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the numbers as plain values."""
        return asdict(self)


def measure(
    student: nn.Module,
    splits: Splits,
    *,
    teacher: nn.Module | Embedded | None = None,
    device: str | torch.device | None = None,
) -> Measurement:
    """Measure a model on the test split, which is read here and nowhere else.

    Args:
        student: the model.
        splits: of `congruence.data.load`; all labels of the training split serve the retrieval database.
        teacher: with which `gpcl`, `kernel_transfer_error` and `wasserstein` are measured, or what `embed_test` gave of
            it; None leaves them out.
        device: to which the models are moved; None for where they are.

    Returns:
        Measurement: see there for units.
    """
    test, train = (_embedded(student, part, "student", device) for part in (splits.test, splits.train))
    gpcl, error, moved = None, None, None
    if teacher is not None:
        seen = _embedded(teacher, splits.test, "teacher", device) if isinstance(teacher, nn.Module) else teacher
        gpcl, error, moved = _fidelity(test, seen)
    within, between = _spread(test)
    return Measurement(
        accuracy=known_accuracy(test),
        retrieval_map=_retrieval(test, train),
        gpcl=gpcl,
        kernel_transfer_error=error,
        wasserstein=moved,
        soft_label_entropy=None if test.logits is None else soft_label_entropy(test.logits),
        intra_class_similarity=within,
        inter_class_similarity=between,
        parameters=count_parameters(student),
    )


def embed_test(model: nn.Module, splits: Splits, *, device: str | torch.device | None = None) -> Embedded:
    """Embed the test split as `measure` does, once for all students that are measured against it."""
    return _embedded(model, splits.test, "teacher", device)


def accuracy_on_test(student: nn.Module, splits: Splits, *, device: str | torch.device | None = None) -> float | None:
    """Return the accuracy of `measure` alone, without the pass over the training images."""
    return known_accuracy(_embedded(student, splits.test, "student", device))


def _embedded(model: nn.Module, part: ImageDataset, name: str, device: str | torch.device | None) -> Embedded:
    return embed(model, loader(part, batch_size=BATCH, shuffle=False), name=name, device=device)


def _fidelity(student: Embedded, teacher: Embedded) -> tuple[float, float, float | None]:
    """Return GPCL, kernel transfer error and W2²."""
    ours, theirs = student.features, teacher.features
    moved = None
    if ours.shape[1] == theirs.shape[1]:
        moved = float(wasserstein_loss(ours[:TRANSPORTED].double(), theirs[:TRANSPORTED].double()))
    error = kernel_transfer_error(F.normalize(ours), F.normalize(theirs))
    return global_perception_coherence(ours, theirs), error, moved


def _retrieval(test: Embedded, train: Embedded) -> float | None:
    if test.labels is None or train.labels is None:
        return None
    known = train.labels >= 0
    if bool((test.labels >= 0).any()) and not bool(torch.isin(test.labels[test.labels >= 0], train.labels).any()):
        return _open_set(test.features, test.labels)
    return retrieval_map(test.features, test.labels, train.features[known], train.labels[known])


def _open_set(features: Tensor, labels: Tensor) -> float | None:
    """Retrieve one half of the labelled images of each class by the other; None where a half would be empty."""
    features, labels = features[labels >= 0], labels[labels >= 0]
    database, query = split.stratified(labels, len(labels) // 2, seed=0, stream=split.DATABASE)
    if not len(database):
        return None
    return retrieval_map(features[query], labels[query], features[database], labels[database])


def _spread(test: Embedded) -> tuple[float | None, float | None]:
    """Return the similarity within and between classes, None where there is no pair."""
    if test.labels is None:
        return None, None
    sizes = torch.bincount(test.labels[test.labels >= 0])
    within = intra_class_similarity(test.features, test.labels) if (sizes > 1).any() else None
    between = inter_class_similarity(test.features, test.labels) if (sizes > 0).sum() > 1 else None
    return within, between
