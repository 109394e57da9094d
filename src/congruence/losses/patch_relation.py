"""Patch relations: each token's distribution of similarity over the tokens of its sample."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island, unit
from congruence.geometry.tiles import sum_over_samples
from congruence.geometry.tokens import check_tokens, row_divergence, without_padding

CHECKS: Mapping[str, check.Constraint] = {"temperature": check.POSITIVE, "diagonal": check.Flag()}


@float32_island
def patch_relation_loss(
    student_tokens: Tensor,
    teacher_tokens: Tensor,
    *,
    temperature: float = 0.1,
    diagonal: bool = True,
    mask: Tensor | None = None,
) -> Tensor:
    """KL divergence of the softmax of cosines between the tokens of a sample.

    With P_b,i· = softmax_j(cos(x_b,i, x_b,j) / T): L = mean over samples b and tokens i of KL(P^t_b,i· ‖ P^s_b,i·),
    without a factor T². With a mask, j runs over a sample's real tokens, and the mean is over the real tokens of the
    batch.

    Shape:
        `student_tokens` [B, N, D_s], `teacher_tokens` [B, N, D_t], widths may differ; `mask` [B, N]; returns [].

    Args:
        student_tokens: patch tokens, without class or register tokens.
        teacher_tokens: the teacher's tokens at the same positions.
        temperature: T > 0.
        diagonal: whether j = i is included. A token's similarity to itself is always 1 and, at a low temperature,
            dominates P: without it the loss is larger and depends only on the other tokens. A sample's only token then
            has no P, and is left out of the mean.
        mask: bool, True for real tokens; None: all are. Values at the others have no effect.

    Returns:
        The loss, in float32 or float64; 0 with zero gradient if no token has a P. A token of zeros has cosine 0 to all
        tokens. Including the backward pass, memory is about eight float64 matrices [B, N, N]. Above 2²⁴ entries they
        are made a few samples at a time, value and gradient, and there is no second derivative.

    Raises:
        ValueError: for shapes or a mask that do not fit, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]])
        >>> student = torch.tensor([[[1.0], [1.0], [-1.0]]])
        >>> for diagonal in (True, False):
        ...     print(round(patch_relation_loss(student, teacher, diagonal=diagonal).item(), 4))
        0.3893
        0.8994

    Reference:
        From the definition.

    Deviations:
        None.
    """
    name = "patch_relation_loss"
    check_tokens(name, mask, student_tokens=student_tokens, teacher_tokens=teacher_tokens)
    check.hyperparameters(name, CHECKS, temperature=temperature, diagonal=diagonal)
    real = _real(student_tokens, mask, diagonal)

    def part(samples: slice, student: Tensor, teacher: Tensor) -> Tensor:
        ours, theirs = (x[samples] @ x[samples].mT / temperature for x in (student, teacher))
        keys = _keys(student, None if mask is None else mask[samples], diagonal)
        return (row_divergence(ours, theirs, keys) * real[samples]).sum()

    sides = (unit(as_float64(without_padding(x, mask))) for x in (student_tokens, teacher_tokens))
    total = sum_over_samples(part, *sides, each=student_tokens.shape[1] ** 2)
    return (total / real.sum().clamp(min=1)).to(student_tokens.dtype)


def _real(tokens: Tensor, mask: Tensor | None, diagonal: bool) -> Tensor:
    """Return which tokens have a P, bool [B, N]."""
    real = torch.ones_like(tokens[..., 0], dtype=torch.bool) if mask is None else mask
    return real if diagonal else real & (real.sum(1, keepdim=True) > 1)


def _keys(tokens: Tensor, mask: Tensor | None, diagonal: bool) -> Tensor | None:
    """Return which tokens are included in each token's row, bool [1 or B, 1 or N, N]; None: all."""
    keys = None if mask is None else mask.unsqueeze(1)
    if diagonal:
        return keys
    others = ~torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)[None]
    return others if keys is None else others & keys


class PatchRelationLoss(nn.Module):
    """`patch_relation_loss` with its hyper-parameters stored."""

    def __init__(self, *, temperature: float = 0.1, diagonal: bool = True) -> None:
        super().__init__()
        check.hyperparameters("PatchRelationLoss", CHECKS, temperature=temperature, diagonal=diagonal)
        self.temperature = temperature
        self.diagonal = diagonal

    def forward(self, student_tokens: Tensor, teacher_tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the loss of `student_tokens` [B, N, D_s] and `teacher_tokens` [B, N, D_t]."""
        return patch_relation_loss(
            student_tokens, teacher_tokens, temperature=self.temperature, diagonal=self.diagonal, mask=mask
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"temperature={self.temperature}, diagonal={self.diagonal}"
