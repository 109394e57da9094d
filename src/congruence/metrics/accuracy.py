"""Top-k accuracy, calibration, and agreement with the teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.numerics import as_float64


@torch.no_grad()
def accuracy(logits: Tensor, labels: Tensor, *, topk: Sequence[int] = (1, 5)) -> tuple[float, ...]:
    """Share of samples whose class is among the k with the largest logits, as a fraction in [0, 1].

    Of equal logits, the lower class counts as larger, so that ties give the same result on every device. A k above C is
    treated as C.

    Shape:
        `logits` [B, C], `labels` [B].

    Args:
        logits: one score for each class.
        labels: integer classes in [0, C).
        topk: values of k >= 1.

    Returns:
        One fraction for each k, in the order of `topk`.

    Raises:
        ValueError: for shapes that do not fit, a single class, logits that are NaN or infinite (-inf masks a class), a
            label out of range, or a k that is not an integer >= 1.

    Example:
        >>> import torch
        >>> accuracy(torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.2, 0.6]]), torch.tensor([0, 1]), topk=(1, 2, 3))
        (0.5, 0.5, 1.0)
    """
    check.floating("accuracy", 2, logits=logits)
    check.several_classes("accuracy", logits=logits)
    check.finite("accuracy", masked=True, logits=logits)
    check.class_labels("accuracy", logits.shape[1], labels=labels)
    check.same_rows("accuracy", logits=logits, labels=labels)
    for k in topk:
        check.hyperparameters("accuracy", {"topk": check.COUNT}, topk=k)
    labels = labels.long()[:, None]
    own = logits.gather(1, labels)
    lower = torch.arange(logits.shape[1], device=logits.device) < labels
    position = ((logits > own) | ((logits == own) & lower)).sum(1)
    return tuple((position < min(k, logits.shape[1])).double().mean().item() for k in topk)


@torch.no_grad()
def expected_calibration_error(logits: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    """Expected calibration error: the gap between confidence and accuracy, over bins of equal width.

    ECE = Σ_m |B_m|/N · |acc(B_m) − conf(B_m)|, where B_m holds the samples whose largest softmax probability is in
    ((m−1)/M, m/M], conf is the mean of these probabilities and acc the share of samples predicted correctly. Of equal
    logits, the lowest class is the prediction. Computed in float64.

    Shape:
        `logits` [N, C], `labels` [N].

    Args:
        logits: one score for each class.
        labels: integer classes in [0, C).
        bins: M >= 1.

    Returns:
        A number in [0, 1]; NaN if a logit is NaN.

    Raises:
        ValueError: for shapes that do not fit, a single class, a label out of range or a number of bins that is not an
            integer >= 1.

    Example:
        >>> import torch
        >>> expected_calibration_error(torch.tensor([[50.0, 0.0], [50.0, 0.0]]), torch.tensor([0, 1]))
        0.5

    Reference:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, eq. 3.
    """
    name = "expected_calibration_error"
    check.floating(name, 2, logits=logits)
    check.several_classes(name, logits=logits)
    check.class_labels(name, logits.shape[1], labels=labels)
    check.same_rows(name, logits=logits, labels=labels)
    check.hyperparameters(name, {"bins": check.COUNT}, bins=bins)
    confidence, answer = torch.softmax(as_float64(logits), 1).amax(1), logits.argmax(1)
    edges = torch.arange(1, bins, device=logits.device) / confidence.new_tensor(bins)
    # |acc − conf| · |B| is the sum of (right − confidence) over the bin.
    gaps = confidence.new_zeros(bins).index_add_(
        0, torch.bucketize(confidence, edges), (answer == labels).to(confidence) - confidence
    )
    return float(gaps.abs().sum() / len(labels))


@torch.no_grad()
def agreement(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Share of samples for which student and teacher predict the same class, right or wrong.

    Of equal logits, the lowest class is the prediction.

    Shape:
        `student_logits` [N, C], `teacher_logits` [N, C].

    Args:
        student_logits: one score for each class.
        teacher_logits: one score for each class.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: for shapes that do not fit, a single class, or logits that are NaN or infinite (-inf masks a class).

    Example:
        >>> import torch
        >>> agreement(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([[5.0, 1.0], [1.0, 0.0]]))
        0.5
    """
    check.floating("agreement", 2, student_logits=student_logits, teacher_logits=teacher_logits)
    check.same_shape("agreement", student_logits=student_logits, teacher_logits=teacher_logits)
    check.several_classes("agreement", student_logits=student_logits)
    check.finite("agreement", masked=True, student_logits=student_logits, teacher_logits=teacher_logits)
    return float((student_logits.argmax(1) == teacher_logits.argmax(1)).double().mean())
