"""The functions in the table of numbers: from embeddings to a number, or to several by name."""

from __future__ import annotations

import torch
from torch import Tensor

from congruence import metrics
from congruence.core.numerics import as_float64
from congruence.evaluation.embeddings import Embeddings, given
from congruence.losses import wasserstein_loss

Numbers = dict[str, float]
# Of `gpcl_estimate`: batches as a training step has them, the same ones every epoch.
_BATCH, _BATCHES = 64, 50
_NEIGHBOURS = 10
_TRANSPORTED = 2000  # the most samples that an exact plan takes well
_PAIRINGS = 20  # of rank and order preservation: N times as many pairs an anchor


def accuracy(of: Embeddings) -> float:
    """Top-1 of the student over the labelled samples, a fraction."""
    rows, labels = of.labelled()
    return metrics.accuracy(given(of.student_logits)[rows], labels, topk=(1,))[0]


def agreement(of: Embeddings) -> float:
    """Share of samples for which both predict the same class."""
    return metrics.agreement(given(of.student_logits), given(of.teacher_logits))


def calibration(of: Embeddings) -> Numbers:
    """The gap between the student's confidence and its accuracy."""
    rows, labels = of.labelled()
    error = metrics.expected_calibration_error(given(of.student_logits)[rows], labels)
    return {"expected_calibration_error": error}


def intra_class_similarity(of: Embeddings) -> float:
    """Mean e^cosine of pairs within a class: large if classes are tight."""
    return metrics.intra_class_similarity(of.student_features, given(of.labels))


def inter_class_similarity(of: Embeddings) -> float:
    """Mean e^cosine of pairs from different classes."""
    return metrics.inter_class_similarity(of.student_features, given(of.labels))


def class_similarity(of: Embeddings) -> Numbers:
    """d_intra and d_inter, means over pairs."""
    return {
        "intra_class_similarity": intra_class_similarity(of),
        "inter_class_similarity": inter_class_similarity(of),
    }


def intra_inter_ratio(of: Embeddings) -> Numbers:
    """Both sides of theorem 1 of the intra-class paper, means over anchors, and the ratio that theorem 2 bounds."""
    ratio = metrics.intra_inter_ratio(of.student_features, given(of.labels))
    return {
        "intra_inter_similarities": ratio.similarities,
        "intra_inter_losses": ratio.losses,
        "intra_loss": ratio.intra_loss,
        "inter_loss": ratio.inter_loss,
        "intra_inter_loss_ratio": ratio.loss_ratio,
    }


def soft_label_entropy(of: Embeddings) -> float:
    """Mean entropy of the softmax, in nats."""
    return metrics.soft_label_entropy(given(of.student_logits))


def gpcl(of: Embeddings) -> float:
    """Global perception coherence by cosine."""
    return metrics.global_perception_coherence(*of.both())


def gpcl_estimate(of: Embeddings) -> Numbers:
    """Estimate of the global perception coherence from batches."""
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
    stability = metrics.perception_stability(student, teacher, region)
    return {
        "perception_stability_level": stability.level,
        "perception_stability_probability": stability.probability,
        "perception_stability_bound": stability.bound,
    }


def gram_alignment(of: Embeddings) -> float:
    """G of CCKD's lemma 1."""
    return metrics.gram_alignment(*of.both())


def effective_kernel_alignment(of: Embeddings) -> float:
    """Distance of the effective kernels of lemma 2."""
    return metrics.effective_kernel_alignment(given(of.student_logits), given(of.teacher_logits))


def kernel_transfer_error(of: Embeddings) -> float:
    """Share of the teacher's kernel of the unnormalised embeddings that is not transferred."""
    return metrics.kernel_transfer_error(*of.both())


def logit_kernel_transfer_error(of: Embeddings) -> float | None:
    """Share of the teacher's kernel of the logits that is not transferred; None if infinite logits mask classes."""
    sides = given(of.student_logits), given(of.teacher_logits)
    return metrics.kernel_transfer_error(*sides) if all(bool(side.isfinite().all()) for side in sides) else None


def cosine_kernel_transfer_error(of: Embeddings) -> float:
    """‖K_S − K_T‖_F/‖K_T‖_F, K the cosines of the embeddings: most methods leave their lengths free."""
    return metrics.cosine_kernel_transfer_error(*of.both())


def landmark_transfer_error(of: Embeddings) -> float:
    """Estimate of the kernel transfer error by the class centres of the measured samples."""
    return metrics.landmark_transfer_error(*of.both(), *of.centres()[0])


def kernel_transfer_bound(of: Embeddings) -> Numbers:
    """Terms A and B of theorem 2, over the labelled samples."""
    (ours, theirs), centre_of_sample = of.centres()
    student, teacher = (side[of.labelled()[0]] for side in of.both())
    within, across = metrics.kernel_transfer_bound(student, teacher, ours, theirs, centre_of_sample)
    return {"kernel_transfer_bound_a": within, "kernel_transfer_bound_b": across}


def nystrom_error(of: Embeddings) -> float:
    """What the class centres miss of the student's kernel."""
    centres = of.centres()[0][0]
    return metrics.nystrom_error(of.student_features[of.labelled()[0]], centres)


def smallest_landmark_eigenvalue(of: Embeddings) -> float:
    """Smallest eigenvalue of the kernel of the class centres."""
    return metrics.smallest_landmark_eigenvalue(of.centres()[0][0])


def risk_gap(of: Embeddings) -> Numbers:
    """Both sides of KD²M's theorem 1 with the teacher's own classifier.

    Where widths differ, the student's features are first mapped to the teacher's by least squares, each half of the
    samples as the other half asks.
    """
    rows, labels = of.labelled()
    student, teacher = of_one_width(*(side[rows] for side in of.both()))
    risks = metrics.risk_gap(student, teacher, labels, *(of.teacher_head or ()))
    return {
        "student_risk": risks.student_risk,
        "teacher_risk": risks.teacher_risk,
        "risk_gap": risks.gap,
        "risk_gap_bound": risks.bound,
        "feature_distance": risks.distance,
    }


def sliced_wasserstein(of: Embeddings) -> float:
    """Sliced squared W2 between the features of all samples, which must have one width:

    4 fixed sets of 64 lines. The standard error was 1 to 2 % (CIFAR-10's test images, a ResNet-8 and its teacher, 64
    features); differences between two students have less noise, since they use the same lines.
    """
    return metrics.sliced_wasserstein_discrepancy(*of.both(), generator=_generator())[0]


def wasserstein_of_first(of: Embeddings) -> float:
    """Squared W2 between the features of the first 2,000 samples, of one width."""
    student, teacher = (side[:_TRANSPORTED].double() for side in of.both())
    return float(wasserstein_loss(student, teacher))


def wasserstein(of: Embeddings) -> Numbers:
    """Squared W2 of the features, exact and of Gaussians; widths as in `risk_gap`, whose distance squared is larger."""
    sides = of_one_width(*of.both())
    return {
        "wasserstein_discrepancy": metrics.wasserstein_discrepancy(*sides),
        "gaussian_wasserstein_discrepancy": metrics.gaussian_wasserstein_discrepancy(*sides),
    }


def linear_cka(of: Embeddings) -> float:
    """Linear centred kernel alignment."""
    return metrics.linear_cka(*of.both())


def neighbour_overlap(of: Embeddings) -> float:
    """Share of the nearest neighbours that both sides have in common."""
    return metrics.neighbour_overlap(*of.both(), k=min(_NEIGHBOURS, len(of.student_features) - 1))


def rkd_distance_discrepancy(of: Embeddings) -> float:
    """Difference of relative distances."""
    return metrics.rkd_distance_discrepancy(*of.both())


def of_one_width(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
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


def _preserved(name: str, preservation: metrics.Preservation) -> Numbers:
    """Name the numbers, none where no pair met the condition."""
    numbers = {"probability": preservation.probability, "bound": preservation.bound}
    return {f"{name}_preservation_{key}": value for key, value in numbers.items() if value is not None}


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
