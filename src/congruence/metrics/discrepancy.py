"""Distances between the distributions of the student's and the teacher's features: transport, Gaussians, kernels.

Each is the value of its loss in float64. Both sides must have the same width: apply the student's projector first.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.numerics import as_float64
from congruence.geometry.dissimilarity import dissimilarity_blocks
from congruence.geometry.gaussian import Covariance
from congruence.losses.gaussian_kl import Direction, gaussian_kl_loss
from congruence.losses.gaussian_wasserstein import gaussian_wasserstein_loss
from congruence.losses.mmd import CHECKS, MmdKernel
from congruence.losses.wasserstein import wasserstein_loss
from congruence.metrics.subsets import mean_and_spread, subsets

_CHUNK_ENTRIES = 2**20  # 8 MB for each block
_SLICES: dict[str, check.Constraint] = {"directions": check.COUNT, "repeats": check.COUNT}


@torch.no_grad()
def wasserstein_discrepancy(student: Tensor, teacher: Tensor) -> float:
    """Squared 2-Wasserstein distance of all student features from all teacher features: `wasserstein_loss`, exact.

    The N×N cost matrix takes about 40 N² bytes (4 GB at N = 10,000), and the assignment takes about N³ time. Above a
    few thousand samples use `estimate_wasserstein_discrepancy`.

    Shape:
        `student` [n, D], `teacher` [m, D], sizes may differ.

    Raises:
        ValueError: for shapes that do not fit, or embeddings that are not finite.

    Example:
        >>> import torch
        >>> wasserstein_discrepancy(torch.tensor([[11.0], [0.0]]), torch.tensor([[0.0], [10.0]]))
        0.5

    Reference:
        Montesuma, KD²M: An Unifying Framework for Feature Knowledge Distillation, 2025, eq. 2.
    """
    _check("wasserstein_discrepancy", student, teacher)
    return float(wasserstein_loss(as_float64(student), as_float64(teacher)))


@torch.no_grad()
def estimate_wasserstein_discrepancy(
    student: Tensor, teacher: Tensor, *, sample_size: int, repeats: int, generator: torch.Generator
) -> tuple[float, float]:
    """Estimate the squared 2-Wasserstein distance from subsets: mean and spread of `wasserstein_discrepancy`.

    Each subset is drawn without replacement and holds the same samples on both sides, so a student equal to the teacher
    has the estimate 0. The estimate is biased upwards, more so for small subsets (the distance is jointly convex). The
    spread is that of the subsets, not a confidence interval for the true value.

    Shape:
        `student` [N, D], `teacher` [N, D].

    Args:
        student: embeddings.
        teacher: embeddings of the same samples.
        sample_size: n, from 1 to N; memory is about 40 n² bytes.
        repeats: number of subsets.
        generator: random generator for the subsets.

    Returns:
        The mean over the subsets and their standard deviation (n − 1; 0 for one).

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or an argument out of its range.

    Example:
        >>> import torch
        >>> x, draws = torch.arange(12.0).reshape(6, 2), torch.Generator().manual_seed(0)
        >>> estimate_wasserstein_discrepancy(x, x, sample_size=3, repeats=5, generator=draws)
        (0.0, 0.0)
    """
    name = "estimate_wasserstein_discrepancy"
    _check(name, student, teacher)
    check.same_rows(name, student=student, teacher=teacher)
    draws = subsets(name, student, "sample_size", sample_size, repeats, generator)
    return mean_and_spread([wasserstein_discrepancy(student[drawn], teacher[drawn]) for drawn in draws])


@torch.no_grad()
def sliced_wasserstein_discrepancy(
    student: Tensor, teacher: Tensor, *, directions: int = 64, repeats: int = 4, generator: torch.Generator
) -> tuple[float, float]:
    """Sliced squared 2-Wasserstein distance of all features, in the units of the exact one: mean and spread.

    SW = D · E_θ[W2²(θ·x, θ·y)], θ uniform on the unit sphere of R^D. On a line, the optimal plan pairs the sorted
    values: W2²(θ·x, θ·y) = (1/N) Σ_i (sort(θ·x)_i − sort(θ·y)_i)². With a set of g orthonormal directions, drawn
    uniformly, the unbiased estimate is (D/g) Σ_θ W2²(θ·x, θ·y); `repeats` sets are drawn independently.
    SW <= W2² (`wasserstein_discrepancy`), because the exact plan is also a plan on each line, and E_θ[(θ·v)²] = ‖v‖²/D.
    They are equal if one side is a shifted or scaled copy of the other, and g = D is then exact. The standard error of
    the mean is spread / √repeats. Time is that of 2 g `repeats` sorts of N numbers; the exact distance takes N³.

    Shape:
        `student` [N, D], `teacher` [N, D].

    Args:
        student: embeddings.
        teacher: embeddings of the same samples.
        directions: g, directions in a set; at most D.
        repeats: number of sets.
        generator: random generator for the directions.

    Returns:
        The mean over the sets and their standard deviation (n − 1; 0 for one). Memory is about
        24 N (D + 3 g) bytes.

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or an argument out of its range.

    Example:
        >>> import torch
        >>> x, draws = torch.arange(12.0).reshape(6, 2), torch.Generator().manual_seed(0)
        >>> mean, spread = sliced_wasserstein_discrepancy(x + 3, x, generator=draws)
        >>> round(mean, 6), round(spread, 6)  # ‖(3, 3)‖²
        (18.0, 0.0)

    Reference:
        Bonneel et al., Sliced and Radon Wasserstein Barycenters of Measures, 2015.

    Deviations:
        The factor D, which the reference lacks.
    """
    name = "sliced_wasserstein_discrepancy"
    _check(name, student, teacher)
    check.same_rows(name, student=student, teacher=teacher)
    check.hyperparameters(name, _SLICES, directions=directions, repeats=repeats)
    x, y = as_float64(student), as_float64(teacher)
    width = x.shape[1]
    means = []
    for _ in range(repeats):
        drawn = torch.randn(width, min(directions, width), generator=generator, dtype=torch.float64)
        lines = torch.linalg.qr(drawn).Q.T.to(x)
        ours, theirs = ((lines @ side.T).sort(dim=1).values for side in (x, y))
        means.append(float(ours.sub_(theirs).square_().mean()) * width)
    return mean_and_spread(means)


@torch.no_grad()
def gaussian_wasserstein_discrepancy(student: Tensor, teacher: Tensor, *, covariance: Covariance = "full") -> float:
    """Squared 2-Wasserstein distance of the Gaussians that fit all features: `gaussian_wasserstein_loss`.

    Memory is linear in the samples: about ten copies of the features in float64 for "full".

    Shape:
        `student` [n, D], `teacher` [m, D], sizes may differ.

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or an unknown covariance.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
        >>> round(gaussian_wasserstein_discrepancy(2 * teacher + 1, teacher), 6)
        3.0

    Reference:
        Montesuma, KD²M: An Unifying Framework for Feature Knowledge Distillation, 2025, eq. 5.
    """
    _check("gaussian_wasserstein_discrepancy", student, teacher)
    return float(gaussian_wasserstein_loss(as_float64(student), as_float64(teacher), covariance=covariance))


@torch.no_grad()
def gaussian_kl_discrepancy(
    student: Tensor,
    teacher: Tensor,
    *,
    covariance: Covariance = "diagonal",
    direction: Direction = "student_teacher",
    shrinkage: float = 1e-3,
) -> float:
    """KL divergence of the Gaussians that fit all features: `gaussian_kl_loss`, with its arguments.

    Memory is linear in the samples, and D² for "full".

    Shape:
        `student` [n, D], `teacher` [m, D], sizes may differ.

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or an argument out of its range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[-1.0], [1.0]])
        >>> gaussian_kl_discrepancy(teacher + 2, teacher)
        2.0

    Reference:
        Montesuma, KD²M: An Unifying Framework for Feature Knowledge Distillation, 2025, eq. 6.
    """
    _check("gaussian_kl_discrepancy", student, teacher)
    x, y = as_float64(student), as_float64(teacher)
    return float(gaussian_kl_loss(x, y, covariance=covariance, direction=direction, shrinkage=shrinkage))


@torch.no_grad()
def mmd_discrepancy(
    student: Tensor,
    teacher: Tensor,
    *,
    kernel: MmdKernel = "rbf",
    gamma: float = 1.0,
    biased: bool = True,
    chunk_size: int | None = None,
) -> float:
    """Squared maximum mean discrepancy of all features: the value of `mmd_loss`, summed from blocks of its kernels.

    Shape:
        `student` [n, D], `teacher` [m, D], sizes may differ.

    Args:
        student: embeddings.
        teacher: embeddings.
        kernel: "rbf", "polynomial" or "linear", see `mmd_loss`.
        gamma: γ > 0 of "rbf".
        biased: whether kernel values of a sample with itself are included.
        chunk_size: c, rows of a kernel at a time; None: about a million entries. Memory is about 32 c N + 24 (n + m) D
            bytes, N the larger of n and m; "linear" needs no kernel, nor does "polynomial" where D <= n and m:
            Σ_ij (x_i·y_j)² is the inner product of XᵀX and YᵀY.

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, or an argument out of its range.

    Example:
        >>> import torch
        >>> mmd_discrepancy(torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0]]), kernel="linear")
        9.0

    Reference:
        Gretton et al., A Kernel Two-Sample Test, 2012, eqs. 3 and 5.
    """
    name = "mmd_discrepancy"
    _check(name, student, teacher)
    checks = {**CHECKS, "chunk_size": check.Real(low=1, closed="low", integer=True, optional=True)}
    check.hyperparameters(name, checks, kernel=kernel, gamma=gamma, biased=biased, chunk_size=chunk_size)
    x, y = as_float64(student), as_float64(teacher)
    if not biased and 1 in (len(x), len(y)):
        return 0.0
    step = chunk_size or max(1, _CHUNK_ENTRIES // max(len(x), len(y)))

    def total(left: Tensor, right: Tensor, apart: bool) -> float:
        pairs = len(left) * (len(right) - apart)
        if kernel == "linear" or (kernel == "polynomial" and x.shape[1] <= min(len(x), len(y))):
            return _product_sum(left, right, apart, squared=kernel == "polynomial") / pairs
        sums = 0.0
        for number, block in enumerate(_kernel_blocks(left, right, kernel, gamma, step)):
            if apart:
                block[:, number * step : number * step + len(block)].fill_diagonal_(0)
            sums += float(block.sum())
        return sums / pairs

    return total(x, x, not biased) + total(y, y, not biased) - 2 * total(x, y, False)


def _kernel_blocks(x: Tensor, y: Tensor, kernel: MmdKernel, gamma: float, step: int) -> Iterator[Tensor]:
    if kernel == "rbf":
        return (block.square_().mul_(-gamma).exp_() for block in dissimilarity_blocks(x, y, "euclidean", step))
    return ((part @ y.T).square_() for part in x.split(step))


def _product_sum(x: Tensor, y: Tensor, apart: bool, *, squared: bool) -> float:
    """Return Σ_ij x_i·y_j or, squared, Σ_ij (x_i·y_j)², from sums over either side; without i = j if `apart`."""
    if squared:
        return float(((x.T @ x) * (y.T @ y)).sum() - apart * x.square().sum(1).square().sum())
    return float(x.sum(0) @ y.sum(0) - apart * x.square().sum())


def _check(function: str, student: Tensor, teacher: Tensor) -> None:
    check.floating(function, 2, student=student, teacher=teacher)
    check.same_width(function, student=student, teacher=teacher)
    check.finite(function, student=student, teacher=teacher)
