"""Inter-class contrast: keeps the samples of other classes away, the counterpart of the intra-class contrast."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island, unit

CHECKS: Mapping[str, check.Constraint] = {"temperature": check.POSITIVE, "normalize": check.Flag()}


@float32_island
def inter_class_contrastive_loss(
    anchor: Tensor, positive: Tensor, labels: Tensor, *, temperature: float = 1.0, normalize: bool = True
) -> Tensor:
    """Contrast of each sample with those of other classes, which tells classes apart.

    L = (1/B) Σ_i ℓ_i with ℓ_i = −log( e^{f_i·f_i⁺/T} / (e^{f_i·f_i⁺/T} + Σ_{y_j≠y_i} e^{f_i·f_j/T}) ).

    Shape:
        `anchor` and `positive` [B, D], `labels` [B]; returns [].

    Args:
        anchor: f, embeddings of the samples without augmentation; those of other classes are the negatives.
        positive: f⁺, embeddings of an augmented view of the same samples.
        labels: integer classes; a row without a label (negative value) is neither anchor nor negative.
        temperature: T > 0.
        normalize: whether the rows of f and f⁺ are scaled to length 1.

    Returns:
        The loss, in float32 or float64. An anchor without a sample of another class, or without a label, has ℓ = 0 and
        is counted.

    Raises:
        ValueError: for shapes that do not fit, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> f = torch.eye(2)
        >>> round(inter_class_contrastive_loss(f, f, torch.tensor([0, 1])).item(), 4)  # log(1 + 1/e)
        0.3133

    Reference:
        Enriching Knowledge Distillation with Intra-Class Contrastive Learning, eq. 8; eq. 9 adds λ times the
        intra-class contrast to it.

    Deviations:
        The paper uses it in its theory alone, and has cross-entropy in its place (eq. 5).
    """
    name = "inter_class_contrastive_loss"
    check.floating(name, 2, anchor=anchor, positive=positive)
    check.same_shape(name, anchor=anchor, positive=positive)
    check.class_labels(name, labels=labels)
    check.same_rows(name, anchor=anchor, labels=labels)
    check.hyperparameters(name, CHECKS, temperature=temperature, normalize=normalize)
    rows, other = as_float64(anchor), as_float64(positive)
    if normalize:
        rows, other = unit(rows), unit(other)
    drawn = (rows * other).sum(1) / temperature
    known = labels >= 0
    apart = (labels[:, None] != labels[None, :]) & known[:, None] & known[None, :]
    some = apart.any(1)
    pushed = (rows @ rows.T / temperature).masked_fill(~apart, -torch.inf)
    # A row of only -inf has a NaN gradient; its value is not used.
    pushed = pushed.masked_fill(~some[:, None], 0.0)
    # This form of −log(e^a / (e^a + Σ e^b)) keeps its digits for small values.
    gap = torch.logsumexp(pushed, 1) - drawn
    values = torch.where(some, torch.logaddexp(gap, torch.zeros_like(gap)), 0.0) + 0 * drawn
    return values.mean().to(anchor.dtype)


class InterClassContrastiveLoss(nn.Module):
    """`inter_class_contrastive_loss` with its hyper-parameters stored."""

    def __init__(self, *, temperature: float = 1.0, normalize: bool = True) -> None:
        super().__init__()
        check.hyperparameters("InterClassContrastiveLoss", CHECKS, temperature=temperature, normalize=normalize)
        self.temperature, self.normalize = temperature, normalize

    def forward(self, anchor: Tensor, positive: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of `anchor` and `positive` [B, D] and `labels` [B]."""
        return inter_class_contrastive_loss(
            anchor, positive, labels, temperature=self.temperature, normalize=self.normalize
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"temperature={self.temperature}, normalize={self.normalize}"
