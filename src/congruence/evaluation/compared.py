"""Functions for the numbers of `compare` that a run's test numbers do not have; their time is bounded.

Random subsets of samples are the same for every model and in every process.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from congruence import metrics
from congruence.core.numerics import as_float64
from congruence.evaluation.drawn import few, shuffled
from congruence.evaluation.embeddings import Embeddings, given
from congruence.evaluation.number import Value
from congruence.geometry.dissimilarity import block_rows, dissimilarity_blocks
from congruence.metrics.order import nearest, row_ranks
from congruence.metrics.segmentation import confusion, iou_of

EXACT = 2000  # samples up to which perception coherence is exact
SUBSETS = 3  # beyond: subsets of as many samples
REFERENCES = 1000  # beyond: samples among which each sample's neighbours are ranked
QUERIES = 1000  # samples that are looked up among all
PAIRED = 3000  # samples whose pairs are summed, and to which Gaussians are fitted
KERNELS = 1000  # samples of the maximum mean discrepancy
SEARCHED = 2000  # samples that are looked up among the training images
DEPTHS = (1, 10, 100)
TOPS = (1, 5, 10)
_MOST_CLASSES = 1000  # whose confusions are counted: their number is its square
_CHUNK_ENTRIES = 2**19
_ROWS = 4096


def top_5_accuracy(of: Embeddings) -> float:
    """Share of the labelled samples whose class has one of the five largest logits."""
    rows, labels = of.labelled()
    return metrics.accuracy(given(of.student_logits)[rows], labels, topk=(5,))[0]


def calibration_error(of: Embeddings) -> float:
    """Expected calibration error over 15 bins: the gap between confidence and accuracy."""
    rows, labels = of.labelled()
    return metrics.expected_calibration_error(given(of.student_logits)[rows], labels)


def divergence(of: Embeddings) -> float:
    """KL(teacher ‖ student) of the softmax, in nats, the mean over samples: Σ_c p_T(c) (log p_T(c) − log p_S(c)).

    Infinite if the student gives probability 0 to a class to which the teacher does not.
    """
    total = 0.0
    sides = given(of.teacher_logits), given(of.student_logits)
    for theirs, ours in zip(*(side.split(_ROWS) for side in sides), strict=True):
        expected, actual = (as_float64(side).log_softmax(1) for side in (theirs, ours))
        # Classes with teacher probability 0 count as 0, even if the student's is 0 too (infinity minus infinity).
        terms = torch.where(expected.isneginf(), 0, expected.exp() * (expected - actual))
        total += float(terms.sum())
    return total / len(sides[0])


def coherence(of: Embeddings) -> dict[str, Value]:
    """Global perception coherence by cosine, and its spread.

    Exact up to 2,000 samples, with spread 0. Above that, the mean over three random subsets of 2,000 and their standard
    deviation, which is slightly above the value on all samples, since ranks among fewer samples are coarser.
    """
    student, teacher = of.both()
    if len(student) <= EXACT:
        return {"gpcl": metrics.global_perception_coherence(student, teacher), "gpcl_spread": 0.0}
    mean, spread = metrics.estimate_perception_coherence(
        student, teacher, batch_size=EXACT, repeats=SUBSETS, generator=torch.Generator().manual_seed(0)
    )
    return {"gpcl": mean, "gpcl_spread": spread}


def coherence_of_samples(student: Tensor, teacher: Tensor) -> Tensor:
    """Perception coherence φ_i of every sample, by cosine: `metrics.perception_coherence` up to 2,000 samples.

    Above that, the ranks around a sample are among 1,000 random references R, the same for all samples:  φ_i = 1 −
    (1/|R|) Σ_{j in R} |F_i^s(j) − F_i^t(j)|, F_i(j) = (1/|R|) #{k in R : d_ik <= d_ij}.

    Shape:
        `student` [N, D_s], `teacher` [N, D_t]; returns float64 [N].

    Example:
        >>> x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
        >>> coherence_of_samples(2 * x, x).tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    count = len(student)
    if count <= EXACT:
        return metrics.perception_coherence(student, teacher)
    references = few(count, REFERENCES)
    rows = block_rows(REFERENCES, _CHUNK_ENTRIES)
    blocks = (dissimilarity_blocks(side, side[references], "cosine", rows) for side in (student, teacher))
    gaps = [
        (row_ranks(ours, 1e-6) - row_ranks(theirs, 1e-6)).abs_().sum(1) for ours, theirs in zip(*blocks, strict=True)
    ]
    return 1 - torch.cat(gaps).double() / REFERENCES**2


def intra_class_similarity(of: Embeddings) -> float | None:
    """Mean e^cosine of pairs within a class, over at most 3,000 labelled samples."""
    features, labels = _few_labelled(of)
    if int(labels.unique(return_counts=True)[1].max()) < 2:
        return None
    return metrics.intra_class_similarity(features, labels)


def inter_class_similarity(of: Embeddings) -> float | None:
    """Mean e^cosine of pairs from different classes, over at most 3,000 labelled samples."""
    features, labels = _few_labelled(of)
    return metrics.inter_class_similarity(features, labels) if len(labels.unique()) > 1 else None


def neighbour_overlaps(of: Embeddings) -> dict[str, Value]:
    """Share of the 1, 10 and 100 nearest neighbours by cosine that both sides have in common.

    Over at most 1,000 random samples, with neighbours among all samples. Ties are broken by a shuffle, the same on both
    sides; a number of neighbours that includes all other samples gives None.
    """
    student, teacher = of.both()
    count = len(student)
    order = shuffled(count)
    depths = [depth for depth in DEPTHS if depth < count - 1]
    values: dict[str, Value] = {f"neighbour_overlap_{depth}": None for depth in DEPTHS}
    if not depths:
        return values
    rows, queries = block_rows(count, _CHUNK_ENTRIES), min(count, QUERIES)
    shared = dict.fromkeys(depths, 0)
    shuffles = (side[order] for side in (student, teacher))
    # The queries are the first of the database: `apart` leaves each out of its own neighbours.
    sides = (nearest(side[:queries], side, "cosine", depths[-1], rows=rows, apart=True) for side in shuffles)
    for ours, theirs in zip(*sides, strict=True):
        for depth in depths:
            both = torch.cat([ours[:, :depth], theirs[:, :depth]], 1).sort(1).values
            shared[depth] += int((both[:, 1:] == both[:, :-1]).sum())
    return values | {f"neighbour_overlap_{depth}": shared[depth] / (depth * queries) for depth in depths}


def gaussian_wasserstein(of: Embeddings) -> float:
    """Squared W2 between the Gaussians that fit the features of at most 3,000 samples; widths must be equal."""
    return metrics.gaussian_wasserstein_discrepancy(*_few_pairs(of, PAIRED))


def gaussian_kl(of: Embeddings) -> float:
    """KL(student ‖ teacher) of the Gaussians with diagonal covariances that fit the features; widths must be equal."""
    return metrics.gaussian_kl_discrepancy(*of.both())


def mean_discrepancy(of: Embeddings) -> float | None:
    """Squared maximum mean discrepancy of the features of at most 1,000 samples, of one width; biased, so 0 for equals.

    With the kernel exp(−‖x − y‖²/(2 Σ_d σ_d²)), σ² the teacher's variances, so that the mean squared distance between
    two of its samples is the unit of length. None for a teacher whose features are all equal.
    """
    student, teacher = _few_pairs(of, KERNELS)
    variance = float(as_float64(teacher).var(0, correction=0).sum())
    if not variance > 0:
        return None
    return metrics.mmd_discrepancy(student, teacher, gamma=1 / (2 * variance))


def knn_accuracy(of: Embeddings) -> float | None:
    """Accuracy of predicting the majority class of a sample's 20 nearest training samples, by cosine.

    Over at most 2,000 random samples, among all labelled training samples; ties are broken by a shuffle.
    """
    train = _labelled_database(of)
    if train is None:
        return None
    rows, labels = of.labelled()
    drawn, order = few(len(rows), SEARCHED), shuffled(len(train[0]))
    query = of.student_features[rows[drawn]]
    return metrics.knn_accuracy(query, labels[drawn], train[0][order], train[1][order])


def linear_probe_accuracy(of: Embeddings) -> float | None:
    """Accuracy of a logistic regression on the features, fitted to the training samples."""
    train = _labelled_database(of)
    if train is None or len(train[1].unique()) < 2:
        return None
    rows, labels = of.labelled()
    return metrics.linear_probe(*train, of.student_features[rows], labels)


def position_accuracy(of: Embeddings) -> float | None:
    """Share of the labelled positions whose class has the largest logit."""
    answers, truth = _labelled_positions(of, of.student_answers)
    return float((answers == truth).double().mean()) if len(truth) else None


def mean_iou(of: Embeddings) -> float | None:
    """Intersection over union of answers and labels, over the labelled positions: the mean over classes that occur.

    None for more than 1,000 classes, as of the words of a language model.
    """
    answers, truth = _labelled_positions(of, of.student_answers)
    if not len(truth) or (classes := int(torch.maximum(answers, truth).max()) + 1) > _MOST_CLASSES:
        return None
    return iou_of(confusion(answers, truth, classes))


def position_agreement(of: Embeddings) -> float | None:
    """Share of the labelled positions for which both models answer with the same class."""
    (ours, truth), (theirs, _) = (_labelled_positions(of, each) for each in (of.student_answers, of.teacher_answers))
    return float((ours == theirs).double().mean()) if len(truth) else None


def mean_average_precision(of: Embeddings) -> float:
    """Mean over independent labels of the average precision of the samples."""
    return metrics.mean_average_precision(given(of.student_logits), given(of.truth))


def macro_f1(of: Embeddings) -> float:
    """Mean over independent labels of the F1 of the answer "logit > 0"."""
    return metrics.macro_f1(given(of.student_logits), given(of.truth))


def label_agreement(of: Embeddings) -> float | None:
    """Share of the known labels for which both models answer alike, by the sign of the logit."""
    known = given(of.truth) >= 0
    ours, theirs = (given(side)[known] > 0 for side in (of.student_logits, of.teacher_logits))
    return float((ours == theirs).double().mean()) if len(ours) else None


def plain(value: Value) -> Value:
    """Return a number, or None if it is NaN or infinite, which JSON does not have."""
    return None if value is None or not math.isfinite(value) else value


def _labelled_positions(of: Embeddings, answers: Tensor | None) -> tuple[Tensor, Tensor]:
    truth = given(of.truth)
    return given(answers)[truth >= 0].long(), truth[truth >= 0].long()


def _few_labelled(of: Embeddings) -> tuple[Tensor, Tensor]:
    rows, labels = of.labelled()
    drawn = few(len(rows), PAIRED)
    return of.student_features[rows[drawn]], labels[drawn]


def _few_pairs(of: Embeddings, most: int) -> tuple[Tensor, Tensor]:
    student, teacher = of.both()
    drawn = few(len(student), most)
    return student[drawn], teacher[drawn]


def _labelled_database(of: Embeddings) -> tuple[Tensor, Tensor] | None:
    """Return the labelled training samples, None if there are none."""
    features, labels = given(of.database)
    if labels is None or not bool((labels >= 0).any()):
        return None
    return features[labels >= 0], labels[labels >= 0]
