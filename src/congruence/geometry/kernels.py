"""Kernels between the rows of embeddings, differentiable, in at least float32 under autocast."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.geometry.dissimilarity import euclidean, square_matrix

KernelName = Literal["bilinear", "rbf", "taylor_rbf", "mmd"]
Kernel = KernelName | Callable[[Tensor], Tensor]
KERNEL = check.Choice(("bilinear", "rbf", "taylor_rbf", "mmd"), callable_too=True)
GAMMA = check.POSITIVE
ORDER = check.COUNT


@float32_island
def bilinear_kernel(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Dot products x_i · y_j.

    Shape:
        `x` [B, D], `y` [N, D] (default: `x`); returns [B, N].

    Example:
        >>> import torch
        >>> bilinear_kernel(torch.tensor([[1.0, 2.0], [0.0, 1.0]])).tolist()
        [[5.0, 2.0], [2.0, 1.0]]
    """
    return x @ (x if y is None else y).T


@float32_island
def rbf_kernel(x: Tensor, y: Tensor | None = None, *, gamma: float = 0.4) -> Tensor:
    """Gaussian kernel exp(−γ‖x_i − y_j‖²), from exact differences.

    Shape:
        `x` [B, D], `y` [N, D] (default: `x`); returns [B, N].

    Raises:
        ValueError: unless `gamma` > 0.

    Example:
        >>> import torch
        >>> round(rbf_kernel(torch.tensor([[0.0], [1.0]]), gamma=1.0)[0, 1].item(), 6)
        0.367879
    """
    check.hyperparameters("rbf_kernel", {"gamma": GAMMA}, gamma=gamma)
    return torch.exp(-gamma * euclidean(x, y).square())


@float32_island
def taylor_rbf_kernel(x: Tensor, y: Tensor | None = None, *, gamma: float = 0.4, order: int = 2) -> Tensor:
    """Taylor expansion of the Gaussian kernel of unit rows: Σ_{p=0..P} e^{−2γ} (2γ)^p / p! · (x_i · y_j)^p.

    It tends to `rbf_kernel` with growing order only where all rows have length 1.

    Shape:
        `x` [B, D], `y` [N, D] (default: `x`); returns [B, N].

    Raises:
        ValueError: unless `gamma` > 0 and `order` is an integer >= 1.

    Example:
        >>> import torch
        >>> round(taylor_rbf_kernel(torch.eye(2), gamma=0.5, order=2)[0, 0].item(), 6)  # 2.5/e
        0.919699

    Reference:
        Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019, eq. 9.
    """
    check.hyperparameters("taylor_rbf_kernel", {"gamma": GAMMA, "order": ORDER}, gamma=gamma, order=order)
    products = bilinear_kernel(x, y)
    factors = [math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) for p in range(order + 1)]
    total = torch.full_like(products, factors[-1])
    for factor in reversed(factors[:-1]):
        total = total * products + factor
    return total


@float32_island
def mmd_kernel(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Distance |mean(x_i) − mean(y_j)| of the means over feature entries; its gradient is 0 where it is 0.

    Shape:
        `x` [B, D], `y` [N, D] (default: `x`); returns [B, N].

    Example:
        >>> import torch
        >>> mmd_kernel(torch.tensor([[1.0, 3.0], [0.0, 1.0]])).tolist()
        [[0.0, 1.5], [1.5, 0.0]]

    Reference:
        Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019, sec. 3.4, "naive MMD".
    """
    rows = x.mean(1)
    columns = rows if y is None else y.mean(1)
    return (rows[:, None] - columns[None, :]).abs()


def resolve_kernel(function: str, kernel: Kernel, *, gamma: float, order: int) -> Callable[[Tensor], Tensor]:
    """Turn a kernel's name and hyper-parameters, or the caller's own callable, into a function [B, D] → [B, B].

    Raises:
        ValueError: naming `function`, for an unknown name, a hyper-parameter out of range or, when the kernel is
            called, a callable that returns another shape.

    Example:
        >>> import torch
        >>> resolve_kernel("my_loss", "rbf", gamma=1.0, order=2)(torch.zeros(2, 3)).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    checks: dict[str, check.Constraint] = {"kernel": KERNEL, "gamma": GAMMA, "order": ORDER}
    check.hyperparameters(function, checks, kernel=kernel, gamma=gamma, order=order)
    match kernel:
        case "bilinear":
            return bilinear_kernel
        case "rbf":
            return functools.partial(rbf_kernel, gamma=gamma)
        case "taylor_rbf":
            return functools.partial(taylor_rbf_kernel, gamma=gamma, order=order)
        case "mmd":
            return mmd_kernel
    own = kernel
    return lambda x: square_matrix(function, "kernel", own(x), x.shape[0])
