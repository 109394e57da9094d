"""Intra-class contrast: separates samples of one class, so that soft labels carry more than the class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island, unit

CHECKS: Mapping[str, check.Constraint] = {
    "margin_threshold": check.Real(low=-1, high=1, closed="both"),
    "temperature": check.POSITIVE,
    "normalize": check.Flag(),
    "reduction": check.Choice(("mean", "gated_mean")),
}


@float32_island
def intra_class_contrastive_loss(
    anchor: Tensor,
    positive: Tensor,
    logits: Tensor,
    labels: Tensor,
    *,
    margin_threshold: float,
    temperature: float = 1.0,
    normalize: bool = True,
    reduction: Literal["mean", "gated_mean"] = "mean",
) -> Tensor:
    """Contrast of each confidently classified sample with the others of its class, which spreads a class out.

    With p = softmax(logits), ρ_i = p_i[y_i] − max_{c≠y_i} p_i[c], a constant. For ρ_i > δ (the margin threshold):
    ℓ_i = −log( e^{f_i·f_i⁺/T} / (e^{f_i·f_i⁺/T} + Σ_{j≠i, y_j=y_i} e^{f_i·f_j/T}) ), else ℓ_i = 0.

    Shape:
        `anchor` and `positive` [B, D], `logits` [B, C], `labels` [B]; returns [].

    Args:
        anchor: f, embeddings of the samples without augmentation; those of the same class are the negatives.
        positive: f⁺, embeddings of an augmented view of the same samples.
        logits: logits of the samples; they decide which samples are anchors, and get no gradient.
        labels: integer classes in [0, C); a row without a label (negative value) is neither anchor nor negative.
        margin_threshold: δ in [−1, 1]; ρ must be larger.
        temperature: T > 0.
        normalize: whether the rows of f and f⁺ are scaled to length 1.
        reduction: "mean" over B, in which samples at or below the threshold count as 0, so that the loss is small early
            in training, when few samples are confident; "gated_mean" over the anchors with ρ > δ (0 if there are none).

    Returns:
        The loss, in float32 or float64. An anchor without another sample of its class has ℓ = 0 and is included in both
        means.

    Raises:
        ValueError: for shapes that do not fit, a label >= C, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> f, labels = torch.eye(2), torch.tensor([0, 0])
        >>> logits = torch.tensor([[3.0, 0.0], [3.0, 0.0]])
        >>> round(intra_class_contrastive_loss(f, f, logits, labels, margin_threshold=0.5).item(), 4)  # log(1 + 1/e)
        0.3133

    Reference:
        Enriching Knowledge Distillation with Intra-Class Contrastive Learning, eqs. 6 and 7.

    Deviations:
        Eq. 7 has raw embeddings and no temperature: `normalize=False` and T = 1. Unit rows come from its sec. 4.1. Its
        algorithm 1 has softmax(f), so that f may also be the logits: the function takes either. "gated_mean" is not in
        the paper.
        One sentence on λ says that a larger weight pulls a class together; minimising eq. 7 does the opposite, and its
        theorem 2 agrees. The threshold is > 0 in the paper; here any margin in [−1, 1] is accepted. With a single
        class, the margin is p itself.
    """
    name = "intra_class_contrastive_loss"
    check.floating(name, 2, anchor=anchor, positive=positive, logits=logits)
    check.same_shape(name, anchor=anchor, positive=positive)
    check.class_labels(name, logits.shape[1], unlabelled=True, labels=labels)
    check.same_rows(name, anchor=anchor, logits=logits, labels=labels)
    check.hyperparameters(
        name,
        CHECKS,
        margin_threshold=margin_threshold,
        temperature=temperature,
        normalize=normalize,
        reduction=reduction,
    )
    margin = margins(logits, labels)
    gated = (labels >= 0) & (margin > margin_threshold)
    contrast = _contrast(anchor, positive, labels, temperature, normalize)
    # Rows that do not count are multiplied by 0: NaN exceeds no threshold, but must show.
    values = torch.where(gated, contrast, 0 * contrast) + 0 * margin
    counted = gated.sum().clamp(min=1) if reduction == "gated_mean" else len(gated)
    return (values.sum() / counted).to(anchor.dtype)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ρ [B] (eq. 6) without gradient; its value for unlabelled rows is meaningless."""
    shares = torch.softmax(logits.detach(), 1)
    own = labels.long().clamp(min=0)[:, None]
    return shares.gather(1, own).squeeze(1) - shares.scatter(1, own, 0.0).amax(1)


def _contrast(anchor: Tensor, positive: Tensor, labels: Tensor, temperature: float, normalize: bool) -> Tensor:
    """Return ℓ [B] of every row as an anchor."""
    anchor, positive = as_float64(anchor), as_float64(positive)
    if normalize:
        anchor, positive = unit(anchor), unit(positive)
    drawn = (anchor * positive).sum(1) / temperature
    partners = labels[:, None] == labels[None, :]
    partners = partners & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    some = partners.any(1)
    pushed = (anchor @ anchor.T / temperature).masked_fill(~partners, -torch.inf)
    # A row of only -inf has a NaN gradient; its value is not used.
    pushed = pushed.masked_fill(~some[:, None], 0.0)
    # This form of −log(e^a / (e^a + Σ e^b)) keeps its digits for small values.
    gap = torch.logsumexp(pushed, 1) - drawn
    return torch.where(some, torch.logaddexp(gap, torch.zeros_like(gap)), 0.0) + 0 * drawn


class IntraClassContrastiveLoss(nn.Module):
    """`intra_class_contrastive_loss` with its hyper-parameters stored."""

    def __init__(
        self,
        *,
        margin_threshold: float,
        temperature: float = 1.0,
        normalize: bool = True,
        reduction: Literal["mean", "gated_mean"] = "mean",
    ) -> None:
        super().__init__()
        check.hyperparameters(
            "IntraClassContrastiveLoss",
            CHECKS,
            margin_threshold=margin_threshold,
            temperature=temperature,
            normalize=normalize,
            reduction=reduction,
        )
        self.margin_threshold = margin_threshold
        self.temperature = temperature
        self.normalize = normalize
        self.reduction: Literal["mean", "gated_mean"] = reduction

    def forward(self, anchor: Tensor, positive: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of `anchor` and `positive` [B, D], `logits` [B, C] and `labels` [B]."""
        return intra_class_contrastive_loss(
            anchor,
            positive,
            logits,
            labels,
            margin_threshold=self.margin_threshold,
            temperature=self.temperature,
            normalize=self.normalize,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return (
            f"margin_threshold={self.margin_threshold}, temperature={self.temperature}, "
            f"normalize={self.normalize}, reduction={self.reduction!r}"
        )
