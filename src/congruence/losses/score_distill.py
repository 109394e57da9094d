"""Score distillation: each sample's retrieval scores over the batch are matched to the teacher's."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island, unit

CHECKS: Mapping[str, check.Constraint] = {"temperature": check.POSITIVE}


@float32_island
def score_distillation_loss(student: Tensor, teacher: Tensor, *, temperature: float = 0.02) -> Tensor:
    """Squared difference of the softmax of cosines within a batch, summed over a row and averaged over rows.

    P_ij = softmax_j(cos(x_i, x_j)/T), the diagonal included: L = (1/B) Σ_ij (P_ij^s − P_ij^t)².

    If queries and documents are embedded separately, add the loss of each. Memory is B² entries for each side.

    Shape:
        `student` [B, D_s], `teacher` [B, D_t], widths may differ; returns [].

    Args:
        student: embeddings.
        teacher: embeddings.
        temperature: T > 0.

    Returns:
        The loss, in float32 or float64; 0 for one sample. A row of zeros has cosine 0 to all rows, including itself.

    Raises:
        ValueError: for shapes that do not fit or `temperature` <= 0.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.eye(2)
        >>> score_distillation_loss(3 * teacher, teacher).item()
        0.0
        >>> round(score_distillation_loss(student, teacher, temperature=1.0).item(), 4)
        0.035

    Reference:
        The code of NVIDIA NeMo Automodel (embedding distillation); there is no paper.

    Deviations:
        None. As in the code, a sample's similarity to itself is included: at T = 0.02 a neighbour with cosine c has
        exp(−50 (1 − c)) of its weight, so loss and gradient are near 0 unless neighbours have cosines above about 0.9.
        A larger T gives neighbours more influence.
    """
    check.floating("score_distillation_loss", 2, student=student, teacher=teacher)
    check.same_rows("score_distillation_loss", student=student, teacher=teacher)
    check.hyperparameters("score_distillation_loss", CHECKS, temperature=temperature)
    difference = _scores(student, temperature) - _scores(teacher, temperature)
    return (difference.square().sum() / len(student)).to(student.dtype)


def _scores(x: Tensor, temperature: float) -> Tensor:
    # In float64, since dividing by the temperature magnifies the rounding of cosines near 1.
    rows = unit(as_float64(x))
    return (rows @ rows.T / temperature).softmax(1)


class ScoreDistillationLoss(nn.Module):
    """`score_distillation_loss` with its hyper-parameters stored."""

    def __init__(self, *, temperature: float = 0.02) -> None:
        super().__init__()
        check.hyperparameters("ScoreDistillationLoss", CHECKS, temperature=temperature)
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of `student` [B, D_s] and `teacher` [B, D_t]."""
        return score_distillation_loss(student, teacher, temperature=self.temperature)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"temperature={self.temperature}"
