"""Gram matrices of patches: the cosines between the tokens of a sample."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island, unit
from congruence.geometry.tokens import check_tokens, without_padding

CHECKS: Mapping[str, check.Constraint] = {}


@float32_island
def gram_loss(student_tokens: Tensor, teacher_tokens: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of the cosines between the tokens of a sample.

    With X̂ the tokens of a sample scaled to length 1: L = mean over samples b and tokens i, j of ((X̂_b^s X̂_b^sᵀ)_ij −
    (X̂_b^t X̂_b^tᵀ)_ij)², i = j included. With a mask the mean is over all pairs of real tokens in the batch.

    Shape:
        `student_tokens` [B, N, D_s], `teacher_tokens` [B, N, D_t], widths may differ; `mask` [B, N]; returns [].

    Args:
        student_tokens: patch tokens, without class or register tokens.
        teacher_tokens: the teacher's tokens at the same positions.
        mask: bool, True for real tokens; None: all are. Values at the others have no effect.

    Returns:
        The loss, in float32 or float64; 0 with zero gradient if no token is real. A token of zeros has cosine 0 to all
        tokens. Including the backward pass, memory is about six float64 matrices [B, N, N].

    Raises:
        ValueError: for shapes or a mask that do not fit.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> gram_loss(torch.ones(1, 2, 3), teacher).item(), gram_loss(5 * teacher, teacher).item()
        (0.5, 0.0)

    Reference:
        From the definition, after the Gram anchoring of Siméoni et al., DINOv3, 2025.

    Deviations:
        The paper has the squared Frobenius norm of each sample's difference, which is N² times this loss.
    """
    check_tokens("gram_loss", mask, student_tokens=student_tokens, teacher_tokens=teacher_tokens)
    student, teacher = (unit(as_float64(without_padding(x, mask))) for x in (student_tokens, teacher_tokens))
    squares = (student @ student.mT - teacher @ teacher.mT).square()
    if mask is None:
        return squares.mean().to(student_tokens.dtype)
    # Masked tokens are zeros on both sides, so the differences of their pairs are zero.
    pairs = mask.sum(1).square().sum().clamp(min=1)
    return (squares.sum() / pairs).to(student_tokens.dtype)


class GramLoss(nn.Module):
    """`gram_loss` as a module."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, student_tokens: Tensor, teacher_tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the loss of `student_tokens` [B, N, D_s] and `teacher_tokens` [B, N, D_t]."""
        return gram_loss(student_tokens, teacher_tokens, mask=mask)
