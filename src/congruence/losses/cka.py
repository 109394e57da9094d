"""Centred kernel alignment as a loss: the pattern of similarities within a batch, independent of scale."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island, rescaled, unit

CHECKS: Mapping[str, check.Constraint] = {"centered": check.Flag()}


@float32_island
def linear_cka_loss(student: Tensor, teacher: Tensor, *, centered: bool = True) -> Tensor:
    """One minus the linear centred kernel alignment of two spaces.

    With X and Y the embeddings, columns centred over the batch if `centered`:
    L = 1 − ‖YᵀX‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F), one minus the cosine of the Gram matrices X Xᵀ and Y Yᵀ.

    Shape:
        `student` [B, D_s], `teacher` [B, D_t], widths may differ; returns [].

    Args:
        student: embeddings or logits; transposed logits compare classes instead of samples.
        teacher: embeddings or logits.
        centered: whether columns are centred first.

    Returns:
        The loss in [0, 1], in float32 or float64. If all rows of one side are equal (uncentred: zero), it is 1 with
        zero gradient; if those of both sides are, as with a single sample, it is 0. Memory is B² float64 entries for
        each side.

    Raises:
        ValueError: for shapes that do not fit or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 3.0]])
        >>> [round(linear_cka_loss(x, teacher).item(), 4) for x in (5 * teacher.flip(1), teacher[:, :1])]
        [0.0, 0.0176]

    Reference:
        Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019, sec. 3, with the biased
        HSIC. Zhou et al., Rethinking Centered Kernel Alignment in Knowledge Distillation, IJCAI 2024, use it on logits:
        15 L of the rows + 15 L of the columns, not centred, which equals their value plus 30.

    Deviations:
        Despite its name, the released code of the latter does not centre. Computed as ½ ‖K/‖K‖ − K'/‖K'‖‖² of the Gram
        matrices, which is equal but keeps the digits that one minus a cosine loses near 0.
    """
    check.floating("linear_cka_loss", 2, student=student, teacher=teacher)
    check.same_rows("linear_cka_loss", student=student, teacher=teacher)
    check.hyperparameters("linear_cka_loss", CHECKS, centered=centered)
    dtype = torch.promote_types(student.dtype, teacher.dtype)
    ours, theirs = (_gram(x, centered) for x in (student, teacher))
    # For two Grams of length 1, half the squared difference is 1 − cos; if one has length 0, a half is missing.
    missing = (ours == 0).all() ^ (theirs == 0).all()
    return (((ours - theirs).square().sum() + missing) / 2).to(dtype)


def _gram(x: Tensor, centered: bool) -> Tensor:
    """Return the Gram matrix of rows at Frobenius norm 1, flat."""
    x = as_float64(x)
    if centered:
        same = (x - x[:1] == 0).all()  # their mean may be off by rounding; an infinity minus itself is NaN
        x = (x - x.mean(0)).masked_fill(same, 0)
    x = rescaled(x)
    return unit((x @ x.T).flatten())


class LinearCkaLoss(nn.Module):
    """`linear_cka_loss` with its hyper-parameter stored."""

    def __init__(self, *, centered: bool = True) -> None:
        super().__init__()
        check.hyperparameters("LinearCkaLoss", CHECKS, centered=centered)
        self.centered = centered

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of `student` [B, D_s] and `teacher` [B, D_t]."""
        return linear_cka_loss(student, teacher, centered=self.centered)

    def extra_repr(self) -> str:
        """Return the hyper-parameter as text."""
        return f"centered={self.centered}"
