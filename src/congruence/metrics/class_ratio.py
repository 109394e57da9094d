"""The ratio of intra-class to inter-class similarity, from similarities and from contrastive losses, and its bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.numerics import as_float64, unit
from congruence.metrics.class_sums import class_sums

_CHECKS: dict[str, check.Constraint] = {
    "chunk_size": check.Real(low=1, closed="low", integer=True, optional=True),
    "weight": check.POSITIVE,
    "inter_negatives": check.COUNT,
    "intra_negatives": check.COUNT,
    "least_inter": check.Real(low=0, optional=True),
    "least_intra": check.Real(low=0, optional=True),
}


@dataclass(frozen=True, kw_only=True)
class IntraInterRatio:
    """Both sides of theorem 1 and the losses in them, each a mean over the anchors."""

    similarities: float  # d_intra / d_inter
    losses: float  # K (e^{L_intra} − 1) / (e^{L_inter} − 1): equal to `similarities`
    limit: float  # K e^{L_intra} / e^{L_inter}, as printed: equal in the limit of many negatives
    intra_loss: float
    inter_loss: float
    loss_ratio: float  # intra_loss / inter_loss, what theorem 2 bounds
    anchors: int


@dataclass(frozen=True, kw_only=True)
class IntraInterBounds:
    """Bounds of L_intra / L_inter at the optimum, and their constants."""

    lower: float  # 1 / (c0 λ + c1)
    upper: float  # c2 / λ + c3
    c0: float
    c1: float
    c2: float
    c3: float


@torch.no_grad()
def intra_inter_ratio(
    embeddings: Tensor, labels: Tensor, positive: Tensor | None = None, *, chunk_size: int | None = None
) -> IntraInterRatio:
    """Ratio of intra-class to inter-class similarity, from the similarities themselves and from the two losses.

    φ are the unit rows. An anchor i has m negatives of its class (j ≠ i) and n of the others; K = n/m,
    d_intra = (1/m) Σ_intra e^{φ_i·φ_j}, L_intra = log(1 + Σ_intra e^{φ_i·φ_j} / e^{φ_i·φ_i⁺}), d_inter and L_inter
    with the n others. For each anchor d_intra/d_inter = K (e^{L_intra} − 1)/(e^{L_inter} − 1), exactly.

    Shape:
        `embeddings` and `positive` [N, D], `labels` [N].

    Args:
        embeddings: embeddings of the samples; each is an anchor, and a negative for all others.
        labels: integer classes; rows without a label (negative) are left out.
        positive: φ⁺, embeddings of another view of the same samples; None: the samples themselves (φ·φ⁺ = 1).
        chunk_size: c, rows of the N×N matrix at a time; None: 2¹⁹ entries, at least 32 rows. Memory is about
            24 c N + 40 N D bytes.

    Returns:
        Means over the anchors that have both kinds of negatives. The ratios have no unit and lie in [e⁻², e²]
        (`limit` aside); the losses are in nats.

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or if no sample has both another sample
            in its class and one outside.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
        >>> ratio = intra_inter_ratio(rows, torch.tensor([0, 0, 1]))
        >>> round(ratio.similarities, 6), round(ratio.losses, 6), ratio.anchors  # e/1: tight, the other at right angles
        (2.718282, 2.718282, 2)

    Reference:
        Enriching Knowledge Distillation with Intra-Class Contrastive Learning, eq. 8 and theorem 1.

    Deviations:
        The printed theorem drops both −1, which is right only in the limit of many negatives (`limit`); its proof (eq.
        12) has them. Eq. 11 exchanges d_intra and d_inter. The identity holds for each anchor; a mean of ratios is not
        the ratio of `intra_class_similarity` to `inter_class_similarity`, which are means over pairs.
    """
    name = "intra_inter_ratio"
    check.floating(name, 2, embeddings=embeddings)
    check.class_labels(name, labels=labels)
    check.same_rows(name, embeddings=embeddings, labels=labels)
    check.finite(name, embeddings=embeddings)
    check.hyperparameters(name, _CHECKS, chunk_size=chunk_size)
    labelled = labels >= 0
    rows, classes = unit(as_float64(embeddings[labelled])), labels[labelled]
    drawn = torch.ones_like(rows[:, 0])
    if positive is not None:
        check.floating(name, 2, positive=positive)
        check.same_shape(name, embeddings=embeddings, positive=positive)
        check.finite(name, positive=positive)
        drawn = (rows * unit(as_float64(positive[labelled]))).sum(1)
    near, far, m, n = class_sums(rows, classes, chunk_size)
    used = (m > 0) & (n > 0)
    if not used.any():
        raise ValueError(f"`{name}`: `labels` must have a class with two samples and another class, got none.")
    near, far, m, n, drawn = (values[used] for values in (near, far, m, n, drawn))
    intra, inter = (torch.log1p(total / drawn.exp()) for total in (near, far))
    return IntraInterRatio(
        similarities=float(((near / m) / (far / n)).mean()),
        losses=float((n / m * torch.expm1(intra) / torch.expm1(inter)).mean()),
        limit=float((n / m * (intra - inter).exp()).mean()),
        intra_loss=float(intra.mean()),
        inter_loss=float(inter.mean()),
        loss_ratio=float(intra.mean() / inter.mean()),
        anchors=len(m),
    )


def intra_inter_bounds(
    *,
    weight: float,
    inter_negatives: int,
    intra_negatives: int,
    least_inter: float | None = None,
    least_intra: float | None = None,
) -> IntraInterBounds:
    """Bounds of L_intra / L_inter at the minimum of L_inter + λ·L_intra: 1/(C0 λ + C1) <= ratio <= C2/λ + C3.

    With n inter-class and m intra-class negatives, a = min L_inter and b = min L_intra:
    C0 = ln(1 + m e²)/b − 1, C1 = a/b, C2 = ln(1 + n e²)/a − 1, C3 = b/a.
    The paper has a = ln(1 + n e⁻²) and b = ln(1 + m e⁻²), every negative opposite to its anchor: the defaults.

    Args:
        weight: λ > 0.
        inter_negatives: n >= 1.
        intra_negatives: m >= 1.
        least_inter: a, the smallest mean L_inter that the embeddings can reach; None: the paper's.
        least_intra: b, the smallest mean L_intra that they can reach; None: the paper's.

    Returns:
        The bounds and constants, without unit, for `IntraInterRatio.loss_ratio`. They hold only at the optimum.

    Raises:
        ValueError: for an argument out of its range.

    Example:
        >>> bounds = intra_inter_bounds(weight=1.0, inter_negatives=8, intra_negatives=2)
        >>> round(bounds.lower, 4), round(bounds.upper, 4)
        (0.0736, 4.9098)

    Reference:
        Enriching Knowledge Distillation with Intra-Class Contrastive Learning, theorem 2.

    Deviations:
        The proof needs min L_inter <= a and min L_intra <= b where eqs. 17 and 18 show >=. A single anchor can reach
        the paper's minima. A class in which every sample is an anchor cannot for m > 1 (three samples cannot all be
        opposite to each other), and the printed upper bound then fails for large λ (a test has four samples in each
        class, each with its opposite as the one outside, at λ = 20). With the reachable minima the bounds hold. Eqs. 21
        and 25 write e − 1 where e⁻¹ is meant.
    """
    check.hyperparameters(
        "intra_inter_bounds",
        _CHECKS,
        weight=weight,
        inter_negatives=inter_negatives,
        intra_negatives=intra_negatives,
        least_inter=least_inter,
        least_intra=least_intra,
    )
    inter = math.log1p(inter_negatives * math.exp(-2)) if least_inter is None else least_inter
    intra = math.log1p(intra_negatives * math.exp(-2)) if least_intra is None else least_intra
    c0, c1 = math.log1p(intra_negatives * math.exp(2)) / intra - 1, inter / intra
    c2, c3 = math.log1p(inter_negatives * math.exp(2)) / inter - 1, intra / inter
    return IntraInterBounds(lower=1 / (c0 * weight + c1), upper=c2 / weight + c3, c0=c0, c1=c1, c2=c2, c3=c3)
