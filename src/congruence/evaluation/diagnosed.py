"""The functions of the table of diagnostics: from embeddings to numbers by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from congruence import metrics
from congruence.core.numerics import as_float64
from congruence.evaluation.embeddings import Embeddings, given

Numbers = dict[str, float]
# Of `gpcl_estimate`: batches as a training step has them, the same ones every epoch.
_BATCH, _BATCHES = 64, 50
_NEIGHBOURS = 10
_PAIRINGS = 20  # of rank and order preservation: N times as many pairs an anchor


def accuracy(of: Embeddings) -> Numbers:
    """Top-1 of the student."""
    rows, labels = of.labelled()
    return {"accuracy": metrics.accuracy(given(of.student_logits)[rows], labels, topk=(1,))[0]}


def agreement(of: Embeddings) -> Numbers:
    """Share of samples to which both give the same class."""
    return {"agreement": metrics.agreement(given(of.student_logits), given(of.teacher_logits))}


def calibration(of: Embeddings) -> Numbers:
    """How far the student's confidence is from its accuracy."""
    rows, labels = of.labelled()
    error = metrics.expected_calibration_error(given(of.student_logits)[rows], labels)
    return {"expected_calibration_error": error}


def class_similarity(of: Embeddings) -> Numbers:
    """d_intra and d_inter, means over pairs, of both sides."""
    labels = given(of.labels)
    return _each(
        of,
        lambda side: {
            "intra_class_similarity": metrics.intra_class_similarity(side, labels),
            "inter_class_similarity": metrics.inter_class_similarity(side, labels),
        },
    )


def intra_inter_ratio(of: Embeddings) -> Numbers:
    """Both sides of theorem 1 of the intra-class paper, means over anchors, and the ratio that theorem 2 bounds."""
    labels = given(of.labels)

    def measure(side: Tensor) -> Numbers:
        found = metrics.intra_inter_ratio(side, labels)
        return {
            "intra_inter_similarities": found.similarities,
            "intra_inter_losses": found.losses,
            "intra_loss": found.intra_loss,
            "inter_loss": found.inter_loss,
            "intra_inter_loss_ratio": found.loss_ratio,
        }

    return _each(of, measure)


def soft_label_entropy(of: Embeddings) -> Numbers:
    """Mean entropy of the softmax, of both sides."""
    sides = {"": of.student_logits, "teacher_": of.teacher_logits}
    return {f"{p}soft_label_entropy": metrics.soft_label_entropy(s) for p, s in sides.items() if s is not None}


def gpcl(of: Embeddings) -> Numbers:
    """Global perception coherence by cosine."""
    return {"gpcl": metrics.global_perception_coherence(*of.both())}


def gpcl_estimate(of: Embeddings) -> Numbers:
    """Its estimate from batches."""
    student, teacher = of.both()
    size = min(_BATCH, len(student))
    mean, spread = metrics.estimate_perception_coherence(
        student, teacher, batch_size=size, repeats=_BATCHES, generator=_generator()
    )
    return {"gpcl_estimate": mean, "gpcl_estimate_sd": spread}


def rank_preservation(of: Embeddings) -> Numbers:
    """Estimated probability of theorem 4.4.1, and its bound."""
    return _preserved("rank", metrics.rank_preservation(*of.both(), pairings=_PAIRINGS, generator=_generator()))


def order_preservation(of: Embeddings) -> Numbers:
    """Estimated probability of theorem 4.4.2, and its bound."""
    return _preserved("order", metrics.order_preservation(*of.both(), pairings=_PAIRINGS, generator=_generator()))


def perception_stability(of: Embeddings) -> Numbers:
    """Both sides of theorem 4.5, around the tenth of the samples with the most coherence."""
    student, teacher = of.both()
    levels = metrics.perception_coherence(student, teacher)
    region = levels.argsort(descending=True, stable=True)[: max(1, len(levels) // 10)]
    found = metrics.perception_stability(student, teacher, region)
    return {
        "perception_stability_level": found.level,
        "perception_stability_probability": found.probability,
        "perception_stability_bound": found.bound,
    }


def gram_alignment(of: Embeddings) -> Numbers:
    """G of CCKD's lemma 1."""
    return {"gram_alignment": metrics.gram_alignment(*of.both())}


def effective_kernel_alignment(of: Embeddings) -> Numbers:
    """Distance of the effective kernels of lemma 2."""
    logits = given(of.student_logits), given(of.teacher_logits)
    return {"effective_kernel_alignment": metrics.effective_kernel_alignment(*logits)}


def kernel_transfer_error(of: Embeddings) -> Numbers:
    """Share of the teacher's kernel that is not transferred."""
    return {"kernel_transfer_error": metrics.kernel_transfer_error(*of.both())}


def landmark_transfer_error(of: Embeddings) -> Numbers:
    """Its estimate by the class centres of these very samples."""
    return {"landmark_transfer_error": metrics.landmark_transfer_error(*of.both(), *of.centres()[0])}


def kernel_transfer_bound(of: Embeddings) -> Numbers:
    """Terms A and B of theorem 2, over the labelled samples."""
    (ours, theirs), place = of.centres()
    student, teacher = (side[of.labelled()[0]] for side in of.both())
    within, across = metrics.kernel_transfer_bound(student, teacher, ours, theirs, place)
    return {"kernel_transfer_bound_a": within, "kernel_transfer_bound_b": across}


def smallest_landmark_eigenvalue(of: Embeddings) -> Numbers:
    """Of the class centres of both sides."""
    sides = zip(("", "teacher_"), of.centres()[0], strict=False)
    return {f"{p}smallest_landmark_eigenvalue": metrics.smallest_landmark_eigenvalue(side) for p, side in sides}


def risk_gap(of: Embeddings) -> Numbers:
    """Both sides of KD²M's theorem 1 with the teacher's own classifier.

    Where widths differ, the student's features are first mapped to the teacher's by least squares, each half of the
    samples as the other half asks.
    """
    rows, labels = of.labelled()
    student, teacher = _of_one_width(*(side[rows] for side in of.both()))
    found = metrics.risk_gap(student, teacher, labels, *(of.teacher_head or ()))
    return {
        "student_risk": found.student_risk,
        "teacher_risk": found.teacher_risk,
        "risk_gap": found.gap,
        "risk_gap_bound": found.bound,
        "feature_distance": found.distance,
    }


def wasserstein(of: Embeddings) -> Numbers:
    """Squared W2 of the features, exact and of Gaussians; widths as in `risk_gap`, whose distance squared is larger."""
    sides = _of_one_width(*of.both())
    return {
        "wasserstein_discrepancy": metrics.wasserstein_discrepancy(*sides),
        "gaussian_wasserstein_discrepancy": metrics.gaussian_wasserstein_discrepancy(*sides),
    }


def linear_cka(of: Embeddings) -> Numbers:
    """Linear centred kernel alignment."""
    return {"linear_cka": metrics.linear_cka(*of.both())}


def neighbour_overlap(of: Embeddings) -> Numbers:
    """Share of the nearest neighbours that both sides have in common."""
    nearest = min(_NEIGHBOURS, len(of.student_features) - 1)
    return {"neighbour_overlap": metrics.neighbour_overlap(*of.both(), k=nearest)}


def rkd_distance_discrepancy(of: Embeddings) -> Numbers:
    """Difference of relative distances."""
    return {"rkd_distance_discrepancy": metrics.rkd_distance_discrepancy(*of.both())}


def _of_one_width(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Map the student's features to the teacher's by least squares, where widths differ.

    Each half is mapped as the other half asks: as many samples as features would be met exactly by their own map.
    """
    student, teacher = as_float64(student), as_float64(teacher)
    if student.shape[1] == teacher.shape[1]:
        return student, teacher
    mapped = torch.empty_like(teacher)
    for half in (slice(0, None, 2), slice(1, None, 2)):
        other = slice(1 - half.start, None, 2)
        mapped[half] = student[half] @ (torch.linalg.pinv(student[other]) @ teacher[other])
    return mapped, teacher


def _each(of: Embeddings, measure: Callable[[Tensor], Numbers]) -> Numbers:
    """Measure the student under the names themselves, and the teacher, where there is one, beside it."""
    found = measure(of.student_features)
    if of.teacher_features is not None:
        found |= {f"teacher_{name}": value for name, value in measure(of.teacher_features).items()}
    return found


def _preserved(name: str, found: metrics.Preservation) -> Numbers:
    """Name the numbers, none where no pair met the condition."""
    numbers = {"probability": found.probability, "bound": found.bound}
    return {f"{name}_preservation_{key}": value for key, value in numbers.items() if value is not None}


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
