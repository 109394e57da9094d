"""Angles of all triples of a batch: the difference between two spaces, in memory bounded by a tile."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from congruence.core.numerics import as_float64, float32_island, safe_norm, unit
from congruence.geometry.dissimilarity import euclidean

_SHORTEST = 1e-30  # 1/d is at most 1e30, and leaves a float32 gradient of up to 1e8 finite
_TILE = {"cpu": 2**17}  # entries of [B, B, B] at a time: what a core's cache holds, or fills a GPU
_TILE_ELSEWHERE = 2**22
_LEAST_POINTS = 32  # of a tile: the sums over fewer are short
# Of the batch's extent E. K's float64 entries are rounded by about 1e-16 E², and ψ's numerator is of the order of d²:
# with d = 1e-5 E it has six digits left.
_TIGHT = 1e-5


@float32_island
def angle_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean smooth L1 difference of the cosines ψ_ijk = ⟨e_ij, e_ik⟩, e_ij = (x_j − x_i)/‖x_j − x_i‖, over all i, j, k.

    e_ij is 0, with zero gradient, if x_i = x_j (or they are less than 1e-30 apart).

    With centred rows and K = X Xᵀ in float64, ψ_ijk = (K_jk − K_ij − K_ik + K_ii)/(d_ij d_ik): this takes O(B²D + B³)
    operations and no [B, B, D] tensor, whereas explicit differences take O(B³D). Anchors are processed in tiles, and
    the gradient is computed in the same pass, so that no [B, B, B] entries are kept (with `create_graph` and
    `torch.func`, all are). The distances d come from exact differences. If a row is closer to the anchor than 1e-5 of
    the batch's extent, K does not have enough digits: for such an anchor, differences are computed explicitly, in
    O(B²D).

    Shape:
        `student` [B, D_s], `teacher` [B, D_t], widths may differ; returns [].

    Example:
        >>> import torch
        >>> right, flat = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0], [1.0], [2.0]])
        >>> angle_difference(right, right).item()
        0.0
        >>> angle_difference(right, flat).item() > 0.1
        True
    """
    sides = as_float64(student), as_float64(teacher)
    if len(student) == 1:
        return ((0 * sides[0]).sum() + (0 * sides[1]).sum()).to(student.dtype)  # what is not finite shows
    if not torch.compiler.is_compiling():
        # torch.func.grad and torch.vmap take operations of torch alone.
        plain = torch._C._are_functorch_transforms_active()
        loss: Tensor = _all_at_once(*sides) if plain else _AngleDifference.apply(*sides)
        return loss.to(student.dtype)
    # torch.compile cannot trace a Function without a warning. Here x − x is 0 and carries the gradient, the first one
    # alone: a compiled graph has no second.
    wanted = [side.requires_grad for side in sides]
    loss, *gradients = _in_one(sides[0].detach(), sides[1].detach(), *wanted)
    for side, gradient, is_wanted in zip(sides, gradients, wanted, strict=True):
        if is_wanted:
            loss = loss + ((side - side.detach()) * gradient).sum()
    return loss.to(student.dtype)


class _AngleDifference(torch.autograd.Function):
    """The gradient by each side is found in the forward, up to the factor that the backward brings."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        loss, gradients = _value_and_gradients(student, teacher, ctx.needs_input_grad)
        ctx.save_for_backward(student, teacher, *gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, *gradients = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: the formula has all derivatives
            wanted = [side for side, saved in zip((student, teacher), gradients, strict=True) if saved is not None]
            found = iter(torch.autograd.grad(_all_at_once(student, teacher), wanted, create_graph=True))
            gradients = [None if saved is None else next(found) for saved in gradients]
        return tuple(None if saved is None else saved * gradient for saved in gradients)


def _all_at_once(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the loss by its formula, with [B, B, D] differences and [B, B, B] cosines."""
    ours, theirs = (unit(side - side[:, None]) for side in (student, teacher))  # e_ij
    return F.smooth_l1_loss(ours @ ours.mT, theirs @ theirs.mT)


# An operator of its own: torch.compile takes it whole, and need not follow what depends on the values.
@torch.library.custom_op("congruence::angle_difference", mutates_args=())
def _in_one(
    student: Tensor, teacher: Tensor, student_wanted: bool, teacher_wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    loss, gradients = _value_and_gradients(student, teacher, (student_wanted, teacher_wanted))
    first, second = (loss.new_empty(0) if gradient is None else gradient for gradient in gradients)
    return loss, first, second


@_in_one.register_fake
def _(student: Tensor, teacher: Tensor, student_wanted: bool, teacher_wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
    first = torch.empty_like(student) if student_wanted else student.new_empty(0)
    second = torch.empty_like(teacher) if teacher_wanted else teacher.new_empty(0)
    return student.new_empty(()), first, second


def _value_and_gradients(
    student: Tensor, teacher: Tensor, wanted: tuple[bool, ...]
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the loss, and its gradient by each side where it is wanted.

    With r_ij = 1/d_ij (0 where e_ij is) and B rows, L = B⁻³ Σ_ijk ℓ(ψ_ijk − ψ'_ijk), ψ_ijk = r_ij r_ik N_ijk and
    N_ijk = K_jk − K_ij − K_ik + K_ii. Let s_ijk = ℓ'(ψ_ijk − ψ'_ijk) be the slope, for the student's side; the
    teacher's has −s. As ψ_ijk = ψ_ikj, what comes by the second index comes by the third as well:

    - by K_jk for j ≠ k, with w_ijk = s_ijk r_ij r_ik: G_jk = Σ_i w_ijk from the numerator's first term, and
      −2A_jk = −2 Σ_k' w_jkk' from the two in the middle, whose anchor is j;
    - by d_ij as a distance from the anchor i: −2 r_ij S_ij with S_ij = Σ_k s_ijk ψ_ijk. As
      ∂d_ij/∂x_i = r_ij (x_i − x_j), row i gets 2 r_ij² S_ij (x_j − x_i), and row j the opposite.

    N and d depend on differences of rows alone, so that each part is Σ_k Q_jk (x_k − x_j) in row j, with Q = P + Pᵀ and
    P = G − 2A + 2 S r². K_ii and K_jj need no sums of their own: they are what makes a row of Q sum to 0.

    By the same symmetry a tile has the k from its first j on: a square of j and k in which all pairs stand twice, and
    the k after it, in which each stands once and counts twice.
    """
    size = student.shape[0]
    sides = (student, teacher)
    # Centred, K spends no digits on where the batch lies.
    rows = [side - side.mean(0) for side in sides]
    grams = [side @ side.T for side in rows]
    inverses = [_inverse_distances(side) for side in sides]
    tight = [_tight(side, inverse) for side, inverse in zip(rows, inverses, strict=True)]
    # N_ijk = K_jk − c_ij − c_ik with c_ij = K_ij − K_ii/2: one matrix less to subtract from each tile.
    halves = [gram - gram.diagonal()[:, None] / 2 for gram in grams]
    by_gram, by_anchor, by_length = ([torch.zeros_like(gram) for gram in grams] for _ in range(3))  # G, A, S
    by_row = [torch.zeros_like(side) for side in rows]  # what tight anchors give, which has no part in K
    total = student.new_zeros(())
    anchors_at_once, points_at_once = _tile(size, student.device.type)
    # Memory asked for anew in each tile may be given back to the system in between, which costs more than the sums.
    memory = student.new_empty(3, anchors_at_once * points_at_once * size)
    for anchors, points in _tiles(size, anchors_at_once, points_at_once):
        later = slice(points.start, size)  # k
        square, after = points.stop - points.start, slice(points.stop, size)
        shape = (anchors.stop - anchors.start, square, size - points.start)
        ours, theirs, slope = (part[: math.prod(shape)].view(shape) for part in memory)
        psi = (ours, theirs)
        tight_here = [[i for i in anchors_of if anchors.start <= i < anchors.stop] for anchors_of in tight]
        for side, cosines in enumerate(psi):
            _cosines(cosines, grams[side][points, later], halves[side][anchors], inverses[side][anchors], points)
            for i in tight_here[side]:
                units = _units(sides[side], inverses[side], i)
                cosines[i - anchors.start] = units[points] @ units[later].T
        losses = F.smooth_l1_loss(ours, theirs, reduction="none")
        total += 2 * losses.sum() - losses[..., :square].sum()
        torch.sub(ours, theirs, out=slope).clamp_(-1, 1)  # s, the derivative of smooth L1
        # After the sum, before the gradient: ψ_ijj is 1 or 0, whatever the rows do.
        slope.diagonal(0, 1, 2).zero_()
        for side, cosines in enumerate(psi):
            if wanted[side]:
                # A tight anchor's gradient goes to the rows themselves; in the sums for K it counts 0.
                for i in tight_here[side]:
                    units = _units(sides[side], inverses[side], i)
                    _add_by_row(by_row[side], units, inverses[side], slope[i - anchors.start], i, points)
                    cosines[i - anchors.start] = 0
                inverse = inverses[side][anchors]
                parts = cosines.mul_(slope)  # of S_ij
                by_length[side][anchors, points] += parts.sum(2)
                by_length[side][anchors, after] += parts[..., square:].sum(1)
                # w_ijk, in the memory of ψ, which nobody needs any more.
                weighted = torch.mul(slope, inverse[:, None, later], out=cosines).mul_(inverse[:, points, None])
                for i in tight_here[side]:
                    weighted[i - anchors.start] = 0
                by_anchor[side][anchors, points] += weighted.sum(2)
                by_anchor[side][anchors, after] += weighted[..., square:].sum(1)
                over_anchors = weighted.sum(0)
                over_anchors[:, square:] *= 2  # Q takes the transpose of G for the other half
                by_gram[side][points, later] += over_anchors
    gradients: list[Tensor | None] = [None, None]
    for side, sign in enumerate((1, -1)):
        if wanted[side]:
            pairs = by_gram[side] - 2 * by_anchor[side] + 2 * by_length[side] * inverses[side].square()  # P
            pairs = (pairs + pairs.T).fill_diagonal_(0)  # Q, whose diagonal would multiply x_j − x_j
            by_pair = pairs @ rows[side] - pairs.sum(1, keepdim=True) * rows[side]  # Σ_k Q_jk (x_k − x_j)
            gradients[side] = (by_pair + by_row[side]) * (sign / size**3)
    return total / size**3, gradients


def _tight(rows: Tensor, inverse: Tensor) -> list[int]:
    """Return the anchors whose nearest other row is too near for K: 1/r_ij < 1e-5 E, E the largest centred row."""
    return (inverse.amax(1) * _TIGHT * safe_norm(rows).amax() > 1).nonzero().flatten().tolist()


def _units(rows: Tensor, inverse: Tensor, anchor: int) -> Tensor:
    """Return e_ij of an anchor i for all j, [B, D]."""
    return (rows - rows[anchor]) * inverse[anchor, :, None]


def _add_by_row(total: Tensor, units: Tensor, inverse: Tensor, slope: Tensor, anchor: int, points: slice) -> None:
    """Add what an anchor's ψ_ijk = ⟨e_ij, e_ik⟩ in a tile give to the rows, by its unit differences e_ij, [B, D]."""
    # By e_ij: Σ_k s_ijk e_ik, twice, as e_ij stands in ψ_ijk and in ψ_ikj.
    toward = torch.zeros_like(units)
    toward[points] = 2 * slope @ units[points.start :]
    toward[points.stop :] += 2 * slope[:, points.stop - points.start :].T @ units[points]
    # By x_j: ∂e_ij/∂x_j = (I − e_ij e_ijᵀ) r_ij. A unit vector only turns; the part along it is taken away.
    toward = (toward - (toward * units).sum(1, keepdim=True) * units) * inverse[anchor, :, None]
    total += toward
    # e_ij is of x_j − x_i: the anchor gets the opposite of all.
    total[anchor] -= toward.sum(0)


def _inverse_distances(rows: Tensor) -> Tensor:
    """Return r_ij = 1/d_ij, 0 where d_ij is 0 or less than 1e-30."""
    distances = euclidean(rows)
    positive = distances > _SHORTEST
    return torch.where(positive, distances, torch.ones_like(distances)).reciprocal() * positive


def _tile(size: int, device: str) -> tuple[int, int]:
    """Return how many anchors i and points j a tile has: a batch that fits is one, else the points are an eighth."""
    entries = _TILE.get(device, _TILE_ELSEWHERE)
    if size**3 <= entries:
        return size, size
    points = max(1, min(size, max(_LEAST_POINTS, size // 8), entries // size))
    return max(1, min(size, entries // (size * points))), points


def _tiles(size: int, anchors: int, points: int) -> Iterator[tuple[slice, slice]]:
    for i in range(0, size, anchors):
        for j in range(0, size, points):
            yield slice(i, min(i + anchors, size)), slice(j, min(j + points, size))


def _cosines(cosines: Tensor, gram: Tensor, half: Tensor, inverse: Tensor, points: slice) -> None:
    """Write ψ of a tile, [anchors, points, the k from the first of these points on]."""
    torch.sub(gram, half[:, points, None], out=cosines)
    cosines -= half[:, None, points.start :]
    cosines *= inverse[:, points, None]
    cosines *= inverse[:, None, points.start :]
    # ψ_ijj is exactly 1, or 0 where x_i = x_j: rounding would leave a loss between equal spaces.
    cosines.diagonal(0, 1, 2).copy_(inverse[:, points] > 0)
