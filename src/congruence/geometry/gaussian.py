"""Gaussians fitted to batches: the Wasserstein distance between them, with gradients wherever it is defined."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.numerics import as_float64, float32_island, safe_norm

Covariance = Literal["full", "diagonal"]
COVARIANCE = check.Choice(("full", "diagonal"))
# What of a sum of squares is rounding, in units of its precision.
_ROUNDING = 100


@float32_island
def gaussian_wasserstein(x: Tensor, y: Tensor, *, covariance: Covariance = "full") -> Tensor:
    """Squared Wasserstein distance between the Gaussians that fit two batches best: ‖μ_x − μ_y‖² + Bures(Σ_x, Σ_y).

    Means and covariances are those of maximum likelihood (1/n). "full": `bures`; "diagonal": ‖σ_x − σ_y‖².
    Computed in float64 and returned in the dtype of `x` (half as float32).

    Shape:
        `x` [n, D], `y` [m, D]; returns [].

    Raises:
        ValueError: for shapes that do not fit, or an unknown covariance.

    Example:
        >>> import torch
        >>> x = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
        >>> gaussian_wasserstein(x, 3 * x + 1).item(), gaussian_wasserstein(x, 3 * x + 1, covariance="diagonal").item()
        (6.0, 6.0)

    Reference:
        Takatsu, Wasserstein Geometry of Gaussian Measures, 2011; Peyré and Cuturi, Computational Optimal Transport,
        2019, eqs. 2.41 and 2.42.
    """
    name = "gaussian_wasserstein"
    check.hyperparameters(name, {"covariance": COVARIANCE}, covariance=covariance)
    check.floating(name, 2, x=x, y=y)
    check.same_width(name, x=x, y=y)
    dtype = x.dtype
    x, y = as_float64(x), as_float64(y)
    means = (x.mean(0) - y.mean(0)).square().sum()
    if covariance == "full":
        return (means + bures(x, y)).to(dtype)
    return (means + (_deviations(x) - _deviations(y)).square().sum()).to(dtype)


@float32_island
def bures(x: Tensor, y: Tensor) -> Tensor:
    """Squared Bures distance between the covariances of two batches: tr Σ_x + tr Σ_y − 2 tr (Σ_x^½ Σ_y Σ_x^½)^½.

    With X and Y centred, the last trace is ‖X Yᵀ‖_* / √(nm), the nuclear norm: no matrix square root, whose gradient
    does not exist for the singular covariances of small batches. The norm is taken of the product of the triangular
    factors of X and Y, which are no larger than D, and its gradient is that of ⟨U Vᵀ, X Yᵀ⟩ with U Vᵀ constant (the
    norm is the largest such product); directions of singular value 0 are left out, so that the gradient stays finite.
    A result below the rounding of its terms is 0, with zero gradient.

    Shape:
        `x` [n, D], `y` [m, D]; returns [].

    Example:
        >>> import torch
        >>> x = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
        >>> bures(x, 3 * x).item(), bures(x, x.flip(1)).item(), bures(x, x).item()
        (4.0, 2.0, 0.0)
    """
    dtype = x.dtype
    x, y = _centred(as_float64(x)), _centred(as_float64(y))
    spread = x.square().sum() + y.square().sum()
    left, right = _polar(x.detach(), y.detach())
    value = spread - 2 * ((x.T @ left) * (y.T @ right)).sum()
    return (value * (value > _ROUNDING * torch.finfo(x.dtype).eps * spread)).to(dtype)


def _centred(x: Tensor) -> Tensor:
    """Subtract the mean and divide by √n: the rows' products are then the covariance."""
    return (x - x.mean(0)) / math.sqrt(x.shape[0])


def _deviations(x: Tensor) -> Tensor:
    return safe_norm(x - x.mean(0), 0) / math.sqrt(x.shape[0])


def _polar(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return U and V of X Yᵀ = U S Vᵀ, [n, r] and [m, r], with the columns of singular value 0 set to 0."""
    x_basis, x_factor = torch.linalg.qr(x)
    y_basis, y_factor = torch.linalg.qr(y)
    product = torch.nan_to_num(x_factor @ y_factor.T, 0, 0, 0)  # what is not finite shows in the traces
    u, values, v = torch.linalg.svd(product, full_matrices=False)
    noise = torch.finfo(x.dtype).eps * max(x.shape) * x.norm() * y.norm()
    return x_basis @ (u * (values > noise)), y_basis @ v.T
