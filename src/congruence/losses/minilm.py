"""MiniLMv2: the relations between the queries (or keys, or values) of one layer."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island
from congruence.geometry.tiles import sum_over_samples
from congruence.geometry.tokens import check_tokens, row_divergence, without_padding

CHECKS: Mapping[str, check.Constraint] = {"relation_heads": check.COUNT}


@float32_island
def attention_relation_loss(
    student: Tensor, teacher: Tensor, *, relation_heads: int, mask: Tensor | None = None
) -> Tensor:
    """KL divergence of the self-attention relations among the queries, keys or values of one layer.

    The width D of a side is cut in R heads of d = D/R, and A_b,r = softmax(X_b,r X_b,rᵀ / √d), row by row:
    L = mean over samples b, heads r and positions i of KL(A^t_b,r,i· ‖ A^s_b,r,i·). With a mask, rows run over a
    sample's real positions, and the mean is over the real positions of the batch. The method adds this loss for
    queries, keys and values.

    Shape:
        `student` [B, L, D_s], `teacher` [B, L, D_t], widths may differ; `mask` [B, L]; returns [].

    Args:
        student: queries, keys or values of a layer, with its attention heads side by side.
        teacher: the corresponding vectors of the teacher, which may have another number of heads.
        relation_heads: R, a divisor of both widths.
        mask: bool, True for real positions; None: all are. Values at the others have no effect.

    Returns:
        The loss, in float32 or float64; 0 with zero gradient if no position is real. Including the backward pass,
        memory is about seven float64 arrays [B, R, L, L], 0.9 GB for B = 5, R = 12 and L = 512. Above 2²⁴
        entries they are made a few samples at a time, value and gradient, and there is no second derivative.

    Raises:
        ValueError: for shapes or a mask that do not fit, or a number of heads that does not divide the widths.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[[2.0, 0.0, 1.0, 1.0], [0.0, 2.0, 1.0, -1.0]]])
        >>> round(attention_relation_loss(torch.zeros(1, 2, 2), teacher, relation_heads=2).item(), 4)
        0.3384

    Reference:
        Wang et al., MiniLMv2: Multi-Head Self-Attention Relation Distillation, Findings of ACL 2021, from the
        definition.

    Deviations:
        The paper averages within each sequence first; here all real positions of a batch have equal weight, which is
        the same for sequences of one length. The paper does not say how padding is treated.
    """
    name = "attention_relation_loss"
    check_tokens(name, mask, student=student, teacher=teacher)
    check.hyperparameters(name, CHECKS, relation_heads=relation_heads)
    if student.shape[2] % relation_heads or teacher.shape[2] % relation_heads:
        got = f"{relation_heads} for `student` {check.shape(student)}, `teacher` {check.shape(teacher)}"
        check.fail(name, "relation_heads", "a divisor of both widths", got)

    def part(samples: slice, student: Tensor, teacher: Tensor) -> Tensor:
        ours, theirs = (_relations(x[samples], relation_heads) for x in (student, teacher))
        if mask is None:
            return row_divergence(ours, theirs).mean(1).sum()
        real = mask[samples]
        return (row_divergence(ours, theirs, real[:, None, None]).mean(1) * real).sum()

    sides = (as_float64(without_padding(x, mask)) for x in (student, teacher))
    batch, length = student.shape[:2]
    total = sum_over_samples(part, *sides, each=relation_heads * length**2)
    return (total / (batch * length if mask is None else mask.sum().clamp(min=1))).to(student.dtype)


def _relations(x: Tensor, heads: int) -> Tensor:
    """Return the scaled products [B, R, L, L] of rows [B, L, D]."""
    x = x.unflatten(2, (heads, -1)).transpose(1, 2)
    return x @ x.mT / math.sqrt(x.shape[3])


class AttentionRelationLoss(nn.Module):
    """`attention_relation_loss` with its hyper-parameter stored."""

    def __init__(self, *, relation_heads: int) -> None:
        super().__init__()
        check.hyperparameters("AttentionRelationLoss", CHECKS, relation_heads=relation_heads)
        self.relation_heads = relation_heads

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the loss of `student` [B, L, D_s] and `teacher` [B, L, D_t]."""
        return attention_relation_loss(student, teacher, relation_heads=self.relation_heads, mask=mask)

    def extra_repr(self) -> str:
        """Return the hyper-parameter as text."""
        return f"relation_heads={self.relation_heads}"
