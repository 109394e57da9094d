"""The risks of one classifier on the student's and the teacher's features, and the distance between the features."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.numerics import as_float64, safe_norm


@dataclass(frozen=True, kw_only=True)
class RiskGap:
    """Both sides of theorem 1: `gap` <= `bound`."""

    student_risk: float  # R_S(h), mean cross-entropy in nats
    teacher_risk: float  # R_T(h)
    gap: float  # |R_S(h) − R_T(h)|
    distance: float  # ‖g_S − g_T‖_{L2(P)}
    lipschitz: float  # of z ↦ L(h(z), y), for every class y
    bound: float  # lipschitz · distance


@torch.no_grad()
def feature_distance(student: Tensor, teacher: Tensor) -> float:
    """Distance of two encoders over the samples: ‖g_S − g_T‖_{L2(P)} = √( (1/N) Σ_i ‖g_S(x_i) − g_T(x_i)‖² ).

    This is the root of `mimic_loss`. It is never smaller than W2 of the two feature distributions, the root of
    `wasserstein_loss`. It needs only N distances, whereas W2 needs N² and a transport plan.

    Shape:
        `student` and `teacher` [N, D]; row i of both belongs to the same sample.

    Args:
        student: features, projected to the teacher's width if it differs.
        teacher: features.

    Returns:
        A number >= 0, in the features' unit. Memory is linear in N.

    Raises:
        ValueError: for shapes that differ, or features that are not finite.

    Example:
        >>> import torch
        >>> round(feature_distance(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.zeros(2, 2)), 6)  # √(25/2)
        3.535534

    Reference:
        Montesuma, KD²M: An unifying framework for feature knowledge distillation, eq. 7 and theorem 1.

    Deviations:
        None.
    """
    student, teacher = _pair("feature_distance", student, teacher)
    return _distance(student, teacher)


@torch.no_grad()
def risk_gap(student: Tensor, teacher: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None) -> RiskGap:
    """Gap of the risks of one linear classifier h on both features, and its bound: |R_S(h) − R_T(h)| <= ρ·‖g_S − g_T‖.

    R_S(h) = (1/N) Σ_i CE(h(g_S(x_i)), y_i) with h(z) = W z + b; R_T likewise on the teacher's. The Lipschitz constant
    of z ↦ CE(h(z), y) is ρ = max_{c,y} ‖w_c − w_y‖: its gradient Wᵀ(p − e_y) is an average of w_c − w_y over c.

    Shape:
        `student` and `teacher` [N, D], `labels` [N], `weight` [C, D], `bias` [C].

    Args:
        student: features, projected to the teacher's width where it differs.
        teacher: features of the same samples.
        labels: integer classes in [0, C).
        weight: W of the classifier, for example of the teacher's last layer.
        bias: b; None: 0.

    Returns:
        Both sides: risks in nats, the distance in the features' unit. Memory is linear in N, plus C² numbers.

    Raises:
        ValueError: for shapes that do not fit, features or a classifier that are not finite, or a label outside [0, C).

    Example:
        >>> import torch
        >>> features, labels = torch.eye(2), torch.tensor([0, 1])
        >>> risks = risk_gap(features.flip(1), features, labels, torch.eye(2))
        >>> round(risks.gap, 4), round(risks.bound, 4)  # log(1 + e) − log(1 + 1/e), and √2·√2
        (1.0, 2.0)

    Reference:
        Montesuma, KD²M: An unifying framework for feature knowledge distillation, definition 1 and theorem 1 (eq. 9).

    Deviations:
        Eq. 9 has the constant 1: its lemma 1 takes a bounded, symmetric loss of the form |h − h'|^q with a norm <= 1 in
        a reproducing kernel Hilbert space, which cross-entropy is not. What its proof needs is a loss that is Lipschitz
        in the features; the constant is computed and returned. Its f = g∘h is h∘g.
    """
    name = "risk_gap"
    student, teacher = _pair(name, student, teacher)
    check.floating(name, 2, weight=weight)
    check.same_width(name, student=student, weight=weight)
    check.finite(name, weight=weight)
    check.class_labels(name, len(weight), labels=labels)
    check.same_rows(name, student=student, labels=labels)
    weight, shift = as_float64(weight), None
    if bias is not None:
        check.floating(name, 1, bias=bias)
        check.same_rows(name, weight=weight, bias=bias)
        check.finite(name, bias=bias)
        shift = as_float64(bias)
    student_risk, teacher_risk = (
        float(torch.nn.functional.cross_entropy(torch.nn.functional.linear(rows, weight, shift), labels.long()))
        for rows in (student, teacher)
    )
    distance = _distance(student, teacher)
    lipschitz = float(torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist").max())
    return RiskGap(
        student_risk=student_risk,
        teacher_risk=teacher_risk,
        gap=abs(student_risk - teacher_risk),
        distance=distance,
        lipschitz=lipschitz,
        bound=lipschitz * distance,
    )


def _pair(function: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    check.floating(function, 2, student=student, teacher=teacher)
    check.same_shape(function, student=student, teacher=teacher)
    check.finite(function, student=student, teacher=teacher)
    return as_float64(student), as_float64(teacher)


def _distance(student: Tensor, teacher: Tensor) -> float:
    return float(safe_norm((student - teacher).flatten())) / math.sqrt(len(student))
