"""Contrastive representation distillation: a sample's two embeddings are contrasted with those of other samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.host_values import extremes
from congruence.core.numerics import float32_island

_EPS = 1e-7  # ε from the authors' code: K/n alone keeps the denominators above 0, but with ε the values equal theirs
_DENSE = 32  # up to this ratio of all rows to requested rows, a product with the whole bank is cheaper

Normalizers = Tensor | Sequence[float | Tensor]


@dataclass(frozen=True)
class _Pair:
    """Two numbers > 0, or a tensor of two; None."""

    def describe(self) -> str:
        return "two numbers > 0, of the student and of the teacher, or None"

    def accepts(self, value: Any) -> bool:
        if value is None:
            return True
        if isinstance(value, Tensor):  # values on a device are not read
            return value.shape == (2,) and value.is_floating_point()
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            return False
        return all(check.POSITIVE.accepts(v.item() if isinstance(v, Tensor) and v.dim() == 0 else v) for v in value)

    def invalid(self) -> list[Any]:
        return ["a string", 2.0, (1.0,), (1.0, 0.0), (math.nan, 1.0), torch.ones(3)]


CHECKS: Mapping[str, Any] = {"temperature": check.POSITIVE, "normalizers": _Pair()}


@float32_island
def contrastive_representation_loss(
    student: Tensor,
    teacher: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    contrast_index: Tensor,
    *,
    temperature: float = 0.07,
    normalizers: Normalizers | None = None,
) -> Tensor:
    """Contrast of each embedding with rows of the other network's bank; the first row is that of the same sample.

    For one network with embeddings e and the other's bank m of n rows, x_bk = exp(⟨m[idx_bk], e_b⟩/τ)/Z for
    k = 0..K, c = K/n + ε with ε = 1e-7: L = −(1/B) Σ_b [ log(x_b0/(x_b0 + c)) + Σ_{k≥1} log((K/n)/(x_bk + c)) ].
    The loss is the sum over both networks.
    This is noise-contrastive estimation: x models the probability that a row of the bank belongs to the sample, and
    x/(x + K/n) the probability that a row is not one of K rows drawn with probability 1/n each. For that, x must sum to
    1 over the bank, which Z ensures. Computing Z over n rows for each e would defeat the purpose of drawing K, so Z is
    one constant for each network, without gradient: n times the mean of exp(⟨m, e⟩/τ) over the rows drawn for a first
    batch.

    Shape:
        `student` and `teacher` [B, D]; `student_bank` and `teacher_bank` [n, D]; `contrast_index` int64 [B, 1 + K],
        column 0 the sample itself; returns [].

    Args:
        student: embeddings, of length 1 (not normalised here); they are compared with the teacher's bank.
        teacher: embeddings, of length 1 too; they are compared with the student's bank.
        student_bank: the student's embeddings of all samples, constants.
        teacher_bank: the teacher's embeddings of all samples, constants.
        contrast_index: the rows of the banks to compare with.
        temperature: τ > 0.
        normalizers: Z of the student and of the teacher, constants; None computes n times the mean of exp(⟨m, e⟩/τ)
            over this batch (pass these values for later batches).

    Returns:
        The loss, in float32 or float64.

    Raises:
        ValueError: for shapes that do not fit, an index outside the banks, or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> bank = torch.eye(2)
        >>> index = torch.tensor([[0, 1], [1, 0]])
        >>> round(contrastive_representation_loss(bank, bank, bank, bank, index).item(), 4)
        0.8109

    Reference:
        Tian, Krishnan and Isola, Contrastive Representation Distillation, ICLR 2020, eqs. 17–18, and the authors' code.

    Deviations:
        The paper's equations have only one network's embedding as the anchor; the authors' code, followed here, sums
        over both. Everything is computed from logarithms, so distant embeddings neither overflow nor lose their
        gradient.
    """
    name = "contrastive_representation_loss"
    check.floating(name, 2, student=student, teacher=teacher, student_bank=student_bank, teacher_bank=teacher_bank)
    check.same_shape(name, student=student, teacher=teacher)
    check.same_shape(name, student_bank=student_bank, teacher_bank=teacher_bank)
    check.same_width(name, student=student, student_bank=student_bank)
    _check_index(name, student, contrast_index, len(student_bank))
    check.hyperparameters(name, CHECKS, temperature=temperature, normalizers=normalizers)
    total = len(student_bank)
    values = []
    for side, (rows, bank) in enumerate(((student, teacher_bank), (teacher, student_bank))):
        scores = bank_scores(rows, bank, contrast_index) / temperature
        if normalizers is None:
            constant = log_normalizer(scores.detach(), total)  # a constant, like given normalizers
        else:
            constant = torch.as_tensor(normalizers, dtype=scores.dtype, device=scores.device)[side].log()
        # A score of -inf would count as a certain negative, but comes from a non-finite bank, and must show.
        values.append(contrast(scores - constant, total) + 0 * scores.detach().sum())
    return torch.stack(values).sum()


def bank_scores(rows: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    """Return ⟨bank[index_bk], rows_b⟩ as [B, 1 + K], without gradient for the bank.

    If many rows are requested, computing all products and selecting takes less time and memory than gathering B·K rows:
    76 ms against 1775 ms on one core at B = 64, K = 16384, D = 128, n = 50000, forward and backward.
    """
    bank = bank.detach()
    if len(bank) <= _DENSE * index.shape[1]:
        return (rows @ bank.to(rows.dtype).T).gather(1, index)
    return torch.einsum("bkd,bd->bk", bank[index].to(rows.dtype), rows)


def log_normalizer(scores: Tensor, total: int, weights: Tensor | None = None) -> Tensor:
    """Return log Z of Z = n · mean(e^scores), the mean over all B·(1 + K); `weights` as in `contrast`.

    As in the authors' code, the mean includes the positive, which was not drawn.
    Computed with logarithms, since e^(1/τ) is 1.6e6 at τ = 0.07 and overflows float32 at τ = 0.01.
    """
    if weights is not None:
        # w e^s = e^(s + log w), with the positive counted once; a weight of 0 is e^(−∞). Each row's weights sum to K,
        # so the mean is over the same number, except if no negative is of another class: they then sum to 0.
        scores = scores + torch.cat([torch.zeros_like(weights[:, :1]), weights.log()], 1)
    return torch.logsumexp(scores.flatten(), 0) - math.log(scores.numel() / total)


def contrast(scores: Tensor, total: int, weights: Tensor | None = None) -> Tensor:
    """Return one network's loss from log x [B, 1 + K]; `weights` [B, K] says how often each negative counts."""
    negatives = scores.shape[1] - 1
    offset = math.log(negatives / total + _EPS)  # log c
    # −log(x/(x + c)) = log(1 + c/x) = softplus(log c − log x).
    near = nn.functional.softplus(offset - scores[:, 0])
    # −log((K/n)/(x + c)) = log(1 + x/c) + log c − log(K/n).
    far = nn.functional.softplus(scores[:, 1:] - offset) + (offset - math.log(negatives / total))
    return (near + (far if weights is None else far * weights).sum(1)).mean()


def _check_index(name: str, student: Tensor, index: Tensor, total: int) -> None:
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.dim() != 2 or index.shape[1] < 2:
        got = f"{index.dtype} of shape {check.shape(index)}" if isinstance(index, Tensor) else type(index).__name__
        check.fail(name, "contrast_index", "an int64 tensor [B, 1 + K] with K >= 1", got)
    check.dense(name, student=student, contrast_index=index)
    check.same_rows(name, student=student, contrast_index=index)
    if torch.compiler.is_compiling():
        return
    low, high = extremes(index)
    if low < 0 or high >= total:
        check.fail(name, "contrast_index", f"rows of banks of {total}", low if low < 0 else high)


class ContrastiveRepresentationLoss(nn.Module):
    """`contrastive_representation_loss` with its hyper-parameters stored."""

    def __init__(self, *, temperature: float = 0.07, normalizers: Normalizers | None = None) -> None:
        super().__init__()
        check.hyperparameters("ContrastiveRepresentationLoss", CHECKS, temperature=temperature, normalizers=normalizers)
        self.temperature = temperature
        self.normalizers = normalizers

    def forward(
        self, student: Tensor, teacher: Tensor, student_bank: Tensor, teacher_bank: Tensor, contrast_index: Tensor
    ) -> Tensor:
        """Return the loss of embeddings [B, D], banks [n, D] and `contrast_index` [B, 1 + K]."""
        return contrastive_representation_loss(
            student,
            teacher,
            student_bank,
            teacher_bank,
            contrast_index,
            temperature=self.temperature,
            normalizers=self.normalizers,
        )

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"temperature={self.temperature}, normalizers={self.normalizers}"
