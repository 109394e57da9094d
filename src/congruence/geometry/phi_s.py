"""PHI-S: features standardised by one scalar and a rotation after which every output has the same variance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island
from congruence.geometry.tokens import check_mask

_SEED = 0  # of the rotation where no Hadamard matrix is at hand
_PAIR, _TURNED = torch.tensor([[1, 1], [1, -1]]), torch.tensor([[1, -1], [-1, -1]])
_LEAST = 1e-60  # a variance below which the matrix would leave float32


@float32_island
@torch.no_grad()
def phi_s_transform(features: Tensor, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return mean and matrix that standardise features: `(x - mean) @ matrix.T`.

    matrix = H Uᵀ / √λ̄ with the covariance (1/(n − 1)) of the features U Λ Uᵀ, λ̄ = tr Λ / D, and H an orthonormal
    Hadamard matrix, whose entries are all ±1/√D: each output is a mean of all directions, so that all have variance 1.
    The matrix is a rotation times one scalar: distances keep their ratios and differences their angles, unlike with
    whitening, or a standard deviation for each entry. To be fitted once, on many features of a teacher.

    Hadamard matrices are available if D is a product of powers of 2 and of the orders q + 1 and 2 (q' + 1) of Paley's
    two constructions, with primes q ≡ 3 and q' ≡ 1 modulo 4: up to 4096 wherever 64 divides D, but for 2752 and 3776.
    For other widths (odd ones, 52, 92, 100) H is a random rotation by a fixed seed, the same whenever and wherever it
    is drawn up to rounding: the variances are then only about 1, though 1 on average.

    Shape:
        `features` [n, D], or tokens [B, N, D] of which each counts; `mask` [B, N]; returns [D] and [D, D].

    Args:
        features: of a teacher, n ≥ 2, and best many times D. Directions without variance may be among them; where
            there is none in any, the matrix is a rotation.
        mask: bool, True for real tokens; None: all are.

    Returns:
        The mean and the matrix, computed in float64 and returned in float32 or float64, without gradient. U is unique
        up to the signs of its columns only, and with it the matrix: another device may give another, as good.

    Raises:
        ValueError: for a shape or a mask that does not fit, fewer than two features, or NaN or infinity among them.

    Example:
        >>> features = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 1.0], [8.0, 1.0]])
        >>> mean, matrix = phi_s_transform(features)
        >>> mean.tolist()
        [4.0, 0.5]
        >>> [round(value, 4) for value in ((features - mean) @ matrix.T).var(0).tolist()]
        [1.0, 1.0]

    Reference:
        Ranzinger et al., PHI-S: Distribution Balancing for Label-Free Multi-Teacher Distillation, 2024, and the
        authors' examples.

    Deviations:
        The authors' matrix for the orders of Paley's first construction is float32 and fails their own test of
        orthogonality (12, 20, 28); here it is exact.
    """
    name = "phi_s_transform"
    check.floating(name, (2, 3), features=features)
    if mask is not None and features.dim() == 2:
        check.fail(name, "mask", "None for features [n, D]", f"one for `features` {check.shape(features)}")
    check_mask(name, mask, features)
    rows = features.flatten(0, -2) if mask is None else features[mask]
    if len(rows) < 2:
        check.fail(name, "features", "two or more", f"{len(rows)}")
    check.finite(name, features=rows)
    first, width = as_float64(rows[0]), rows.shape[1]
    rows = as_float64(rows) - first  # what is equal in all is exactly 0 now
    mean = rows.mean(0)
    rows = rows - mean
    values, vectors = torch.linalg.eigh(rows.T @ rows / (len(rows) - 1))
    average = values.clamp(min=0).mean()
    scale = torch.where(average > _LEAST, average, torch.ones_like(average)).sqrt()
    matrix = _rotation(width).to(vectors) @ vectors.T / scale
    return (first + mean).to(features.dtype), matrix.to(features.dtype)


def hadamard(order: int) -> Tensor | None:
    """Return a Hadamard matrix of integers ±1, None if none is available.

    Example:
        >>> hadamard(2).tolist(), hadamard(6)
        ([[1, 1], [1, -1]], None)
    """
    if order == 1:
        return torch.ones(1, 1, dtype=torch.int64)
    if order == 2:
        return _PAIR.clone()
    if order < 1 or order % 4:
        return None
    half = hadamard(order // 2)
    if half is not None:
        return torch.kron(_PAIR, half)
    if _is_prime(order - 1):
        return _conference(order - 1) + torch.eye(order, dtype=torch.int64)
    if order % 8 == 4 and _is_prime(order // 2 - 1):
        inner = torch.kron(_conference(order // 2 - 1), _PAIR)
        return inner + torch.kron(torch.eye(order // 2, dtype=torch.int64), _TURNED)
    for factor in range(12, math.isqrt(order) + 1, 4):
        first, second = (hadamard(factor), hadamard(order // factor)) if order % factor == 0 else (None, None)
        if first is not None and second is not None:
            return torch.kron(first, second)
    return None


def _conference(prime: int) -> Tensor:
    """Return C of order q + 1 with 0 on the diagonal, ±1 elsewhere and C Cᵀ = q I; skew for q ≡ 3 modulo 4."""
    numbers = torch.arange(prime)
    signs = torch.full((prime,), -1)
    signs[numbers.square() % prime] = 1  # squares modulo q
    signs[0] = 0
    matrix = torch.zeros(prime + 1, prime + 1, dtype=torch.int64)
    matrix[0, 1:] = 1
    matrix[1:, 0] = 1 if prime % 4 == 1 else -1
    matrix[1:, 1:] = signs[(numbers[:, None] - numbers) % prime]
    return matrix


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % k for k in range(2, math.isqrt(number) + 1))


def _rotation(width: int) -> Tensor:
    """Return H / √D in float64, or the orthonormal factor of random numbers."""
    matrix = hadamard(width)
    if matrix is not None:
        return matrix.double() / math.sqrt(width)
    numbers = torch.randn(width, width, generator=torch.Generator().manual_seed(_SEED), dtype=torch.float64)
    basis, factor = torch.linalg.qr(numbers)
    return basis * factor.diagonal().sign()  # else the signs are the library's
