"""Angles of all triples of a batch: what two spaces differ by, in memory bounded by a tile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from congruence.core.numerics import as_float64, float32_island, safe_norm
from congruence.geometry.dissimilarity import euclidean

_SHORTEST = 1e-30  # one over less would overflow in a float32 gradient
_TILE = {"cpu": 2**16}  # entries of [B, B, B] at a time: what a core's cache holds, or fills a GPU
_TILE_ELSEWHERE = 2**22
_TIGHT = 1e-5  # of the batch's extent: of anchors with a nearer row, K's last digits say too little


@float32_island
def angle_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean smooth L1 difference of the cosines ψ_ijk = ⟨e_ij, e_ik⟩, e_ij = (x_j − x_i)/‖x_j − x_i‖, over all i, j, k.

    e_ij is 0, with zero gradient, where x_i = x_j (or less than 1e-30 apart).

    With centred rows and K = X Xᵀ in float64, ψ_ijk = (K_jk − K_ij − K_ik + K_ii)/(d_ij d_ik): O(B²D + B³) operations
    where the differences themselves take O(B³D), and no [B, B, D] tensor. Anchors go through tile by tile, and the
    gradient is made in the same pass, so that none of the [B, B, B] entries is kept. The distances d are those of exact
    differences. Where a row is nearer to the anchor than 1e-5 of the batch's extent, K's digits would not tell the two
    apart: such an anchor's differences are taken themselves, in O(B²D).

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
    if not torch.compiler.is_compiling():
        loss: Tensor = _AngleDifference.apply(*sides)
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
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return tuple(None if saved is None else saved * gradient for saved in ctx.saved_tensors)


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
    """Return the loss, and its gradient by each side where it is wanted."""
    size = student.shape[0]
    given = (student, teacher)
    rows = [side - side.mean(0) for side in given]
    grams = [side @ side.T for side in rows]
    inverses = [_inverse_distances(side) for side in given]
    tight = [_tight(side, inverse) for side, inverse in zip(rows, inverses, strict=True)]
    # K_jk − K_ij − K_ik + K_ii = K_jk − c_ij − c_ik.
    halves = [gram - gram.diagonal()[:, None] / 2 for gram in grams]
    by_gram, by_anchor, by_length = ([torch.zeros_like(gram) for gram in grams] for _ in range(3))
    by_row = [torch.zeros_like(side) for side in rows]
    total = student.new_zeros(())
    for anchors, points in _tiles(size, student.device.type):
        near = [[i for i in side if anchors.start <= i < anchors.stop] for side in tight]
        sides = [
            _cosines(gram, half, inverse, anchors, points)
            for gram, half, inverse in zip(grams, halves, inverses, strict=True)
        ]
        for k, cosines in enumerate(sides):
            for i in near[k]:
                units = _units(given[k], inverses[k], i)
                cosines[i - anchors.start] = units[points] @ units.T
        difference = sides[0] - sides[1]
        slope = difference.clamp(-1, 1)
        # smooth_l1(x) = s·x − s²/2 with the slope s.
        total += slope.flatten() @ difference.flatten() - slope.square().sum() / 2
        slope.diagonal(points.start, 1, 2).zero_()  # ψ_ijj is 1 wherever it is not 0
        for k, cosines in enumerate(sides):
            if wanted[k]:
                for i in near[k]:
                    units = _units(given[k], inverses[k], i)
                    _add_by_row(by_row[k], units, inverses[k], slope[i - anchors.start], i, points)
                    cosines[i - anchors.start] = 0
                by_length[k][anchors, points] = cosines.mul_(slope).sum(2)
                inverse = inverses[k][anchors]
                weighted = torch.mul(slope, inverse[:, None, :], out=cosines).mul_(inverse[:, points, None])
                for i in near[k]:
                    weighted[i - anchors.start] = 0
                by_anchor[k][anchors, points] = weighted.sum(2)
                by_gram[k][points] += weighted.sum(0)
    gradients: list[Tensor | None] = [None, None]
    for k, sign in enumerate((1, -1)):
        if wanted[k]:
            pairs = by_gram[k] - 2 * by_anchor[k] + 2 * by_length[k] * inverses[k].square()
            pairs = (pairs + pairs.T).fill_diagonal_(0)
            # Only differences of rows count: what a row receives sums to 0.
            by_pair = pairs @ rows[k] - pairs.sum(1, keepdim=True) * rows[k]
            gradients[k] = (by_pair + by_row[k]) * (sign / size**3)
    return total / size**3, gradients


def _tight(rows: Tensor, inverse: Tensor) -> list[int]:
    """Return the anchors whose nearest other row is too near for K."""
    return (inverse.amax(1) * _TIGHT * safe_norm(rows).amax() > 1).nonzero().flatten().tolist()


def _units(rows: Tensor, inverse: Tensor, anchor: int) -> Tensor:
    """Return e_ij of an anchor i for all j, [B, D]."""
    return (rows - rows[anchor]) * inverse[anchor, :, None]


def _add_by_row(total: Tensor, units: Tensor, inverse: Tensor, slope: Tensor, anchor: int, points: slice) -> None:
    """Add what an anchor's ψ give to the rows: through its unit differences, [points, D], which stand in ψ twice."""
    along = units[points]
    toward = 2 * slope @ units
    toward = (toward - (toward * along).sum(1, keepdim=True) * along) * inverse[anchor, points, None]
    total[points] += toward
    total[anchor] -= toward.sum(0)


def _inverse_distances(rows: Tensor) -> Tensor:
    distances = euclidean(rows)
    positive = distances > _SHORTEST
    return torch.where(positive, distances, torch.ones_like(distances)).reciprocal() * positive


def _tiles(size: int, device: str) -> Iterator[tuple[slice, slice]]:
    """Yield the anchors i and points j of each tile; k runs over all."""
    entries = _TILE.get(device, _TILE_ELSEWHERE)
    points = max(1, min(size, entries // size))
    anchors = max(1, entries // (size * points))
    for i in range(0, size, anchors):
        for j in range(0, size, points):
            yield slice(i, min(i + anchors, size)), slice(j, min(j + points, size))


def _cosines(gram: Tensor, half: Tensor, inverse: Tensor, anchors: slice, points: slice) -> Tensor:
    """Return ψ of a tile, [anchors, points, B]."""
    cosines = gram[points] - half[anchors, points, None]
    cosines -= half[anchors, None, :]
    cosines *= inverse[anchors, points, None]
    cosines *= inverse[anchors, None, :]
    cosines.diagonal(points.start, 1, 2).copy_(inverse[anchors, points] > 0)
    return cosines
