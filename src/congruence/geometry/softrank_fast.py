"""Sums Σ_k f((d_ij − d_ik)/τ) w_ik over the columns of a matrix in O(A·B·m) time and O(A·B) memory."""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
from torch import Tensor

from congruence.core.numerics import as_float64, float32_island

Kernel = Literal["sigmoid", "slope"]
# A float32 sigmoid is rounded by about as much as the expansion may err.
ERRORS = {torch.float32: 1e-7, torch.float64: 1e-13}
_DIRECT_TERMS = 128  # beyond, sorting the rows pays
_MOST_TERMS = 512
_FLOAT32_TERMS = 64  # beyond, a float32 recurrence loses digits
_WINDOW_COST = 4  # a neighbour costs as much as so many terms
_ENTRIES = {"cpu": 2**14, "cuda": 2**22}  # of a chunk: the cache's size, or what fills the device


def error_bound(ratio: float, terms: int, kernel: Kernel = "sigmoid") -> float:
    """Bound what the expansion with `terms` terms in each variable errs by, anywhere on [0, R]², R/τ = `ratio`.

    Proof. With x, y on [−1, 1], f((x − y)R/(2τ)) is for each y analytic in x on the Bernstein ellipse of parameter
    ρ = a + √(a² + 1), whose half height is a = 2θτ/R: there the argument of f has an imaginary part of at most θ < π,
    and the poles of f lie at ±iπ and beyond. On that strip |σ| ≤ M = 1 for θ ≤ π/2, 1/sin θ otherwise, and
    |σ'| ≤ M = 1/(4 cos²(θ/2)). The interpolant I in m Chebyshev points errs by at most 4Mρ^(1−m)/(ρ − 1) and has the
    Lebesgue constant Λ ≤ 1 + (2/π) ln m. As ‖f − I_x I_y f‖ ≤ ‖f − I_x f‖ + Λ‖f − I_y f‖, the sum errs by at most
    (2 + (2/π) ln m) · 4Mρ^(1−m)/(ρ − 1), for every θ; the least over a few θ is returned.

    Example:
        >>> error_bound(10.0, 39) < 1e-7 < error_bound(10.0, 38)
        True

    Reference:
        Trefethen, Approximation Theory and Approximation Practice, theorems 8.2 and 15.2.
    """
    least = math.inf
    for share in (0.4, 0.6, 0.8, 0.9, 0.96):
        theta = share * math.pi
        half_height = 2 * theta / max(ratio, 1e-9)  # a
        # ρ − 1 = a + (√(a² + 1) − 1) by itself, with √(a² + 1) − 1 = a²/(1 + √(a² + 1)): where the ratio is large, ρ is
        # so near to 1 that the difference would have no digits.
        excess = half_height + half_height**2 / (1 + math.hypot(half_height, 1))
        largest = 1 / (4 * math.cos(theta / 2) ** 2)  # M
        if kernel == "sigmoid":
            largest = 1 if share <= 0.5 else 1 / math.sin(theta)
        both = 2 + 2 / math.pi * math.log(terms)  # 1 + Λ, of the two interpolations one after the other
        least = min(least, both * 4 * largest * math.exp((1 - terms) * math.log1p(excess)) / excess)
    return least


@functools.lru_cache(maxsize=64)
def count_terms(ratio: float, error: float, kernel: Kernel = "sigmoid") -> int | None:
    """Return the least number of terms that `error_bound` allows, None if it is over 512."""
    low, high = 1, _MOST_TERMS
    if error_bound(ratio, high, kernel) > error:
        return None
    # The bound falls with every term: bisection, with `low` too few and `high` enough.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if error_bound(ratio, middle, kernel) <= error else (middle, high)
    return high


@float32_island
def kernel_sums(
    values: Tensor, temperature: float, bound: float, kernel: Kernel, weights: Tensor | None = None
) -> Tensor:
    """Sums over k of σ((d_j − d_k)/τ), or Σ_k (g_j − g_k) σ'((d_j − d_k)/τ) for weights g, in every row d of `values`.

    The kernel is expanded in products of polynomials of d_j and of d_k, so that the sums over k are taken once for all
    j. Where R/τ is so large that this takes too many terms, the rows are sorted; gaps in which the kernel is constant
    to the last digit are shortened, or only neighbours within its reach are summed, whichever is less work.

    Args:
        values: [A, B], float32 or float64.
        temperature: τ > 0.
        bound: entries are known to lie in [0, bound]; where it is infinite, the largest difference R of a row is read,
            which synchronises with the device (on the CPU it is always read).
        kernel: "sigmoid" without weights, "slope" with.
        weights: [A, B].
    """
    low: Tensor | float = 0.0
    high: Tensor | float = bound
    if values.device.type == "cpu" or not math.isfinite(bound):
        low, high = values.aminmax(dim=1, keepdim=True)
        bound = (high - low).amax().item()
    error = ERRORS[values.dtype]
    if not math.isfinite(bound):  # what is not finite spreads as it does in the formula
        return _near(values, temperature, weights, values.shape[1] - 1) + 0 * values  # 0 · inf and 0 · nan are nan
    terms = count_terms(bound / temperature, error, kernel)
    if terms is not None and terms <= _DIRECT_TERMS:
        return _expanded(values, (low + high) / 2, bound, temperature, kernel, terms, weights)
    # σ(−z) < e^(−z): beyond this reach the kernel is its limit (0 or 1, its slope 0) up to error/B, for each of the B
    # columns.
    reach = temperature * math.log(values.shape[1] / error)
    ordered, order = values.sort(dim=1, stable=True)
    columns = torch.arange(values.shape[1], device=values.device)
    # In an ordered row, whatever is within reach is among so many places on either side.
    neighbours = int((columns - torch.searchsorted(ordered, ordered - reach)).amax())
    # A gap longer than the reach may as well be the reach: no value of the kernel across it changes, and R shrinks.
    # Sums of gaps in float64, or they would lose what the differences had.
    gaps = as_float64(ordered).diff(dim=1, prepend=as_float64(ordered[:, :1])).clamp_(max=reach)
    short = gaps.cumsum_(1)
    bound = short[:, -1].amax().item()
    terms = count_terms(bound / temperature, error, kernel)
    moved = None if weights is None else weights.gather(1, order)
    if terms is None or terms > _WINDOW_COST * neighbours:
        sums = _near(ordered, temperature, moved, neighbours)
    else:
        sums = _expanded(short, bound / 2, bound, temperature, kernel, terms, moved).to(values.dtype)
    return torch.empty_like(values).scatter_(1, order, sums)


def _chunks(values: Tensor) -> list[slice]:
    rows, columns = values.shape
    step = max(1, _ENTRIES.get(values.device.type, _ENTRIES["cuda"]) // columns)
    return [slice(start, start + step) for start in range(0, rows, step)]


def _expanded(
    values: Tensor,
    centre: Tensor | float,
    bound: float,
    temperature: float,
    kernel: Kernel,
    terms: int,
    weights: Tensor | None,
) -> Tensor:
    """Sum f((d_j − d_k)/τ) w_k over k by f ≈ Σ_pq C_pq φ_p(x_j) φ_q(x_k), with d = centre + x·bound/2 and x in [−1, 1].

    The sums over k are then the moments μ_q = Σ_k φ_q(x_k) w_k, the same for all j, and row j is Σ_p φ_p(x_j) (Cμ)_p.

    The φ are the products T_{nu}(x) T_v(x) of Chebyshev polynomials, with v < n = `inner` and u < `outer`. As
    2 T_{nu} T_v = T_{nu+v} + T_{nu−v}, they span what the T_p with p < m = `outer` · n span, so that the interpolant is
    the one of `error_bound`; but there are only n + `outer` ≈ 2√m rows of polynomials to make and to hold, and the
    moments and the result are products of matrices.
    """
    inner = math.isqrt(terms - 1) + 1  # ⌈√terms⌉
    outer = -(-terms // inner)  # ⌈terms/inner⌉: m is not less than `terms`
    narrow = values.dtype == torch.float32 and terms <= _FLOAT32_TERMS
    dtype = torch.float32 if narrow or values.device.type == "mps" else torch.float64
    coefficients = _coefficients(bound / temperature, outer, inner, kernel).to(values.device, dtype)
    scale = 2 / bound if bound > 0 else 0.0
    sums = torch.empty_like(values)
    for rows in _chunks(values):
        middle = centre[rows] if isinstance(centre, Tensor) else centre
        x = (values[rows] - middle).to(dtype).mul_(scale)
        low, high = _factors(x, outer, inner)  # T_v [A, inner, B] and T_{nu} [A, outer, B]
        if weights is None:
            mixed = (high @ low.mT).flatten(1) @ coefficients.T  # Cμ: the product sums over the columns k
            # Σ_v (Cμ)_uv T_v(x_j), then times T_{nu}(x_j) and summed over u.
            sums[rows] = (mixed.view(-1, outer, inner) @ low).mul_(high).sum(1)
            continue
        # Σ_k (g_j − g_k) σ' = g_j Σ_k σ' − Σ_k g_k σ': the moments with weights 1 and with weights g.
        g = weights[rows].to(dtype)[:, None]
        ones, weighted = (
            ((high @ side.mT).flatten(1) @ coefficients.T).view(-1, outer, inner) @ low for side in (low, low * g)
        )
        sums[rows] = ones.mul_(g).sub_(weighted).mul_(high).sum(1)
    return sums


def _coefficients(ratio: float, outer: int, inner: int, kernel: Kernel) -> Tensor:
    """Return C [m, m] of the interpolant: F_ab = Σ_pq φ_p(x_a) C_pq φ_q(x_b) in the Chebyshev points x_a = cos θ_a.

    With V_ap = φ_p(x_a) that is F = V C Vᵀ, or C = V⁻¹ F V⁻ᵀ. It is made by the host, in float64.
    """
    count = outer * inner
    theta = (torch.arange(count, dtype=torch.float64) + 0.5) * (math.pi / count)
    points = theta.cos() * (ratio / 2)  # d/τ at x_a, but for the centre
    nodes = torch.sigmoid(points[:, None] - points)  # F
    if kernel == "slope":
        nodes = nodes * nodes.T  # σ'(z) = σ(z) σ(−z)
    # T_p(cos θ) = cos pθ.
    high = (theta[:, None] * (inner * torch.arange(outer))).cos()
    low = (theta[:, None] * torch.arange(inner)).cos()
    # V⁻¹. The condition of V grows as √m (28 at 256 terms, 39 at 506): less than two of float64's digits are lost.
    inverse = torch.linalg.inv((high[:, :, None] * low[:, None]).flatten(1))
    return inverse @ nodes @ inverse.T


def _factors(x: Tensor, outer: int, inner: int) -> tuple[Tensor, Tensor]:
    """Return T_v(x) for v < n = `inner`, and T_{nu}(x) for u < `outer`, which is T_u(T_n(x))."""
    low = _chebyshev(x, inner + 1)
    return low[:, :inner], _chebyshev(low[:, inner].contiguous(), outer)


def _chebyshev(x: Tensor, count: int) -> Tensor:
    """Return T_0 … T_{count−1} of [A, B] as [A, count, B], by T_p = 2x T_{p−1} − T_{p−2}."""
    polynomials = x.new_empty(x.shape[0], count, x.shape[1])
    by_degree = polynomials.unbind(1)
    by_degree[0].fill_(1)
    if count > 1:
        by_degree[1].copy_(x)
    twice = 2 * x
    for p in range(2, count):
        torch.mul(twice, by_degree[p - 1], out=by_degree[p]).sub_(by_degree[p - 2])
    return polynomials


def _near(values: Tensor, temperature: float, weights: Tensor | None, neighbours: int) -> Tensor:
    """Sum the kernel over sorted rows; what lies further off than `neighbours` places is out of its reach.

    With all as neighbours, any order will do.
    """
    columns = torch.arange(values.shape[1], device=values.device)
    # What a sum of σ starts from: 1 for each column too far below, 0 for each too far above and ½ for itself. For a
    # neighbour above it is 1, from which σ of the opposite difference is taken, as σ(−z) = 1 − σ(z): one σ a pair.
    start = (columns - neighbours).clamp(min=0) + (columns.flip(0)).clamp(max=neighbours) + 0.5
    sums = torch.empty_like(values)
    for rows in _chunks(values):
        d = as_float64(values[rows])
        g = None if weights is None else as_float64(weights[rows])
        row_sums = torch.zeros_like(d) if g is not None else start.to(d.dtype).expand_as(d).clone()
        for apart in range(1, neighbours + 1):  # all pairs so many columns apart at once
            part = (d[:, apart:] - d[:, :-apart]).div_(temperature).sigmoid_()
            if g is not None:
                # σ' is even and g_j − g_k odd: the pair's two sums get the same with opposite signs, from 0.
                part = part.mul_(1 - part).mul_(g[:, apart:] - g[:, :-apart])
            row_sums[:, apart:] += part
            row_sums[:, :-apart] -= part
        sums[rows] = row_sums
    return sums
