"""Gaussians fitted to batches: the Wasserstein distance between them, with gradients where it is defined."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.graph import differentiable_once
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
def padded_gaussian_wasserstein(x: Tensor, y: Tensor, x_counts: Tensor, y_counts: Tensor) -> Tensor:
    """`gaussian_wasserstein` with full covariances, of several pairs of batches at once.

    The first `x_counts[g]` rows of batch g count; later rows are padding without influence.

    Shape:
        `x` [G, n, D], `y` [G, m, D], `x_counts` and `y_counts` integers [G]; returns [G].

    Example:
        >>> import torch
        >>> x = torch.tensor([[[-1.0], [1.0], [9.0]], [[0.0], [6.0], [3.0]]])
        >>> padded_gaussian_wasserstein(x, 2 * x + 1, torch.tensor([2, 3]), torch.tensor([2, 3])).tolist()
        [2.0, 22.0]
    """
    dtype = x.dtype
    (x_means, x), (y_means, y) = _moments(as_float64(x), x_counts), _moments(as_float64(y), y_counts)
    return ((x_means - y_means).square().sum(1) + _bures(x, y)).to(dtype)


@float32_island
def bures(x: Tensor, y: Tensor) -> Tensor:
    """Squared Bures distance between the covariances of two batches: tr Σ_x + tr Σ_y − 2 tr (Σ_x^½ Σ_y Σ_x^½)^½.

    With X and Y centred, the last trace is ‖X Yᵀ‖_* / √(nm), the nuclear norm: no matrix square root, whose gradient
    does not exist for the singular covariances of small batches. A side of more rows than D is replaced by its
    triangular factor [D, D], so that nothing of D × D is made for batches smaller than D. The gradient is that of
    ⟨U Vᵀ, X Yᵀ⟩ with U Vᵀ constant (the norm is the largest such product); directions of singular value 0 are left out,
    so that it stays finite. A result below the rounding of its terms is 0, with zero gradient.

    Shape:
        `x` [n, D], `y` [m, D]; returns [].

    Example:
        >>> import torch
        >>> x = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
        >>> bures(x, 3 * x).item(), bures(x, x.flip(1)).item(), bures(x, x).item()
        (4.0, 2.0, 0.0)
    """
    return _bures(_centred(as_float64(x)), _centred(as_float64(y))).to(x.dtype)


def _bures(x: Tensor, y: Tensor) -> Tensor:
    """Return `bures` [...] of centred rows [..., n, D] and [..., m, D]; rows of zeros change nothing."""
    spread = x.square().sum((-2, -1)) + y.square().sum((-2, -1))
    left, right = _polar(x.detach(), y.detach())
    differentiable_once("bures", "its gradient takes U Vᵀ as a constant", x, y)
    value = spread - 2 * ((left.mT @ x) * (right.mT @ y)).sum((-2, -1))
    return value.clamp(min=0) * (value > _ROUNDING * torch.finfo(x.dtype).eps * spread)


def _centred(x: Tensor) -> Tensor:
    """Subtract the mean and divide by √n: the rows' products are then the covariance."""
    return (x - x.mean(0)) / math.sqrt(x.shape[0])


def _moments(x: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return means [G, D] and centred rows [G, n, D] as in `_centred`, zero from row `counts[g]` on."""
    own = torch.arange(x.shape[1], device=x.device) < counts[:, None]
    weights = (own.to(x.dtype) / counts[:, None])[:, :, None]
    means = (weights * x).sum(1)
    return means, (x - means[:, None]) * weights.sqrt()


def _deviations(x: Tensor) -> Tensor:
    return safe_norm(x - x.mean(0), 0) / math.sqrt(x.shape[0])


def _polar(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return U and V of X Yᵀ = U S Vᵀ, [..., n, r] and [..., m, r], the columns of U with singular value 0 set to 0."""
    (x_basis, x_factor), (y_basis, y_factor) = _factors(x), _factors(y)
    product = torch.nan_to_num(x_factor @ y_factor.mT, 0, 0, 0)  # what is not finite shows in the traces
    u, values, v = torch.linalg.svd(product, full_matrices=False)
    noise = torch.finfo(x.dtype).eps * max(x.shape[-2:]) * torch.linalg.matrix_norm(x) * torch.linalg.matrix_norm(y)
    u = u * (values > noise[..., None])[..., None, :]
    return u if x_basis is None else x_basis @ u, v.mT if y_basis is None else y_basis @ v.mT


def _factors(x: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return Q (None: the identity) and R of X = Q R, R with no more rows than D."""
    if x.shape[-2] <= x.shape[-1]:
        return None, x
    basis, factor = torch.linalg.qr(x)
    return basis, factor
