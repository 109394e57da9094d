"""Heterogeneous knowledge distillation: the neighbourhood distributions of a batch, by several kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island, safe_norm
from congruence.geometry.dissimilarity import euclidean, square_matrix

KernelName = Literal["cosine", "rbf", "student_t"]
Kernel = KernelName | Callable[[Tensor], Tensor]
Divergence = Literal["kl", "jeffreys"]

CHECKS: Mapping[str, check.Constraint] = {
    "kernel": check.Choice(("cosine", "rbf", "student_t"), callable_too=True),
    "divergence": check.Choice(("kl", "jeffreys")),
    "eps": check.POSITIVE,
}
_ROUND = 1e-6  # added under the square root of a distance
_WIDE, _LARGEST = 512, 1e6  # rows that are expanded: from this width, up to this square of a row's length
_LEAST = 1e-12  # smallest P in a logarithm: P of opposite rows is 0


@float32_island
def heterogeneous_kd_loss(
    student: Tensor, teacher: Tensor, *, kernel: Kernel, divergence: Divergence, eps: float = 1e-6
) -> Tensor:
    """Divergence between the row-normalised similarity matrices of a batch.

    P is S with each row divided by its sum, diagonal included, where S = (cos + 1)/2 of rows x/(‖x‖ + ε) for "cosine",
    e^{−D} for "rbf", 1/(1 + D) for "student_t", D_ij = √(‖x_i − x_j‖² + 1e-6), not squared. "kl": L = (1/B²) Σ_ij
    P_t,ij log(ε + P_t,ij/(P_s,ij + ε)). "jeffreys": L = (1/B²) Σ_ij (P_t,ij − P_s,ij)(log P_t,ij − log P_s,ij).

    Shape:
        `student` [B, D_s], `teacher` [B, D_t], widths may differ; returns [].

    Args:
        student: embeddings.
        teacher: embeddings.
        kernel: "cosine", "rbf", "student_t" or a callable [B, D] → [B, B] of similarities ≥ 0.
        divergence: "kl" or "jeffreys".
        eps: ε > 0.

    Returns:
        The loss, in float32 or float64. For "cosine" and a callable, values of P below 1e-12 are raised to 1e-12,
        because with "jeffreys" the logarithm of 0, the value for opposite rows, would not be finite.

    Raises:
        ValueError: for shapes that do not fit or a hyper-parameter out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.eye(2)
        >>> round(heterogeneous_kd_loss(2 * teacher, teacher, kernel="student_t", divergence="jeffreys").item(), 4)
        0.0198

    Reference:
        Passalis, Tzelepi and Tefas, Heterogeneous Knowledge Distillation Using Information Flow Modeling, CVPR 2020,
        and the authors' code.

    Deviations:
        The authors' code takes (teacher, student), and expands the squared distances: in float32 its diagonal is
        rounding noise, which changes the values of "rbf" and "student_t" by up to half a percent. Here the diagonal is
        √1e-6.
    """
    name = "heterogeneous_kd_loss"
    check.floating(name, 2, student=student, teacher=teacher)
    check.same_rows(name, student=student, teacher=teacher)
    check.hyperparameters(name, CHECKS, kernel=kernel, divergence=divergence, eps=eps)
    ours, theirs = (_log_shares(rows, kernel, eps) for rows in (student, teacher))
    if divergence == "kl":
        terms = theirs.exp() * torch.log(eps + theirs.exp() / (ours.exp() + eps))
    else:
        terms = (theirs.exp() - ours.exp()) * (theirs - ours)
    return terms.mean().to(student.dtype)


def _log_shares(rows: Tensor, kernel: Kernel, eps: float) -> Tensor:
    """Return log P in float64; a callable gets the rows in their dtype, since it may hold float32 parameters."""
    if kernel == "rbf":
        return torch.log_softmax(-_distances(rows), 1)
    if kernel == "student_t":
        return torch.log_softmax(-torch.log1p(_distances(rows)), 1)
    if isinstance(kernel, str):
        rows = as_float64(rows)
        rows = rows / (safe_norm(rows, keepdim=True) + eps)
        similarities = (rows @ rows.T + 1) / 2
    else:
        similarities = as_float64(square_matrix("heterogeneous_kd_loss", "kernel", kernel(rows), len(rows)))
    sums = similarities.sum(1, keepdim=True)
    return (similarities / torch.where(sums > 0, sums, torch.ones_like(sums))).clamp(min=_LEAST).log()


def _distances(rows: Tensor) -> Tensor:
    """Return D [B, B] in float64.

    Flattened maps have thousands of numbers, and exact differences of all pairs take most of a step. The expansion
    ‖x‖² + ‖y‖² − 2x·y of centred rows is wrong by about 1e-16 of their largest square, which is little beside the 1e-6
    under the root where that square is at most 1e6. To find out would wait for a GPU, where differences are fast.
    """
    rows = as_float64(rows)
    centred = rows - rows.detach().mean(0)
    eager = rows.device.type == "cpu" and not torch.compiler.is_compiling()
    plain = eager and not torch._C._are_functorch_transforms_active()
    if not plain or rows.shape[1] < _WIDE or not bool(centred.detach().square().sum(1).amax() <= _LARGEST):
        return (euclidean(rows).square() + _ROUND).sqrt()
    products = centred @ centred.T
    own = products.diagonal()
    squares = (own[:, None] + own - 2 * products).clamp(min=0).fill_diagonal_(0)
    return (squares + _ROUND).sqrt()


class HeterogeneousKdLoss(nn.Module):
    """`heterogeneous_kd_loss` with its hyper-parameters stored."""

    def __init__(self, *, kernel: Kernel, divergence: Divergence, eps: float = 1e-6) -> None:
        super().__init__()
        check.hyperparameters("HeterogeneousKdLoss", CHECKS, kernel=kernel, divergence=divergence, eps=eps)
        self.kernel: Kernel = kernel
        self.divergence: Divergence = divergence
        self.eps = eps

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of `student` [B, D_s] and `teacher` [B, D_t]."""
        return heterogeneous_kd_loss(student, teacher, kernel=self.kernel, divergence=self.divergence, eps=self.eps)

    def extra_repr(self) -> str:
        """Return the hyper-parameters as text."""
        return f"kernel={self.kernel!r}, divergence={self.divergence!r}, eps={self.eps}"
