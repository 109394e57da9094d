"""Soft ranks of dissimilarities: the differentiable stand-in for sorting."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.numerics import float32_island
from congruence.geometry.softrank_fast import kernel_sums

Method = Literal["auto", "exact", "fast"]
METHOD = check.Choice(("auto", "exact", "fast"))
TEMPERATURE = check.POSITIVE
# Rows from which on expanding is faster, as measured on the CPU (benchmarks/softrank.py); elsewhere a guess: many small
# kernels against a few large ones.
_FAST_FROM = {"cpu": 128}
_FAST_FROM_ELSEWHERE = 512


def soft_rank(dissimilarities: Tensor, temperature: float, *, method: Method = "auto") -> Tensor:
    """Soft rank of every entry within its row: r̃_ij = Σ_k σ((d_ij − d_ik)/τ), k over all columns, j included.

    As τ tends to 0, it tends to the number of smaller entries plus half the number of equal ones, including j. Rows are
    independent: any subset of anchors gives the same ranks, bit for bit with "exact".

    Shape:
        `dissimilarities` [A, B], a row for each anchor; returns [A, B].

    Args:
        dissimilarities: float32 or float64 (half as float32).
        temperature: τ > 0.
        method: "exact" is the defining sum, O(A·B²) in time and memory. "fast" takes O(A·B·m) time and O(A·B) memory,
            forward and backward: σ is expanded in m polynomials so that each σ errs by less than 1e-7 (float64: 1e-13)
            by a proven bound, m about 4R/τ + 5 where R is the largest difference in a row; where R/τ is large, rows
            are sorted first. R is read from the values, which makes a GPU wait once. A second derivative is that of
            "exact", at its cost. "auto" is "exact" below 128 columns (512 off the CPU), "fast" from there on.

    Raises:
        ValueError: unless `dissimilarities` is a non-empty floating matrix, `temperature` > 0 and `method` known.

    Example:
        >>> import torch
        >>> [round(rank, 3) for rank in soft_rank(torch.tensor([[0.0, 0.5, 0.9]]), 0.01)[0].tolist()]
        [0.5, 1.5, 2.5]

    Reference:
        Feature Representation Transferring to Lightweight Models via Perception Coherence, eq. 3.
    """
    check.floating("soft_rank", 2, dissimilarities=dissimilarities)
    check.hyperparameters(
        "soft_rank", {"temperature": TEMPERATURE, "method": METHOD}, temperature=temperature, method=method
    )
    return soft_rank_within(dissimilarities, temperature, method)


@float32_island
def soft_rank_within(dissimilarities: Tensor, temperature: float, method: Method, bound: float = math.inf) -> Tensor:
    """`soft_rank` of entries that are known to lie in [0, `bound`], which spares a GPU the wait; nothing is checked."""
    if method == "auto":
        least = _FAST_FROM.get(dissimilarities.device.type, _FAST_FROM_ELSEWHERE)
        method = "fast" if dissimilarities.shape[1] >= least else "exact"
    if method == "fast" and not torch._C._are_functorch_transforms_active():  # which take operations of torch alone
        return _fast(dissimilarities, float(temperature), bound)
    return _exact(dissimilarities, temperature)


def _exact(dissimilarities: Tensor, temperature: float) -> Tensor:
    # In place: one [A, B, B] buffer, which the sigmoid's backward needs anyway.
    differences = dissimilarities[:, :, None] - dissimilarities[:, None, :]
    return differences.div_(temperature).sigmoid_().sum(2)


# An operator of its own: torch.compile takes it whole, and need not follow what depends on the values.
@torch.library.custom_op("congruence::soft_rank", mutates_args=())
def _fast(dissimilarities: Tensor, temperature: float, bound: float) -> Tensor:
    return kernel_sums(dissimilarities, temperature, bound, "sigmoid")


@torch.library.custom_op("congruence::soft_rank_gradient", mutates_args=())
def _fast_gradient(dissimilarities: Tensor, gradient: Tensor, temperature: float, bound: float) -> Tensor:
    return kernel_sums(dissimilarities, temperature, bound, "slope", gradient) / temperature


@_fast.register_fake
def _(dissimilarities: Tensor, temperature: float, bound: float) -> Tensor:
    return torch.empty_like(dissimilarities)


@_fast_gradient.register_fake
def _(dissimilarities: Tensor, gradient: Tensor, temperature: float, bound: float) -> Tensor:
    return torch.empty_like(dissimilarities)


def _keep(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.temperature, ctx.bound = inputs[1:]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    (dissimilarities,) = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph: the formula has all derivatives
        ranks = _exact(dissimilarities, ctx.temperature)
        return torch.autograd.grad(ranks, dissimilarities, gradient, create_graph=True)[0], None, None
    return _fast_gradient(dissimilarities, gradient, ctx.temperature, ctx.bound), None, None


_fast.register_autograd(_backward, setup_context=_keep)
