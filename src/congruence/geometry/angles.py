"""Angles of all triples of a batch: what two spaces differ by, in memory bounded by a tile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from congruence.core.numerics import as_float64, float32_island
from congruence.geometry.dissimilarity import euclidean

_SHORTEST = 1e-30  # one over less would overflow in a float32 gradient
_TILE = {"cpu": 2**16}  # entries of [B, B, B] at a time: what a core's cache holds, or fills a GPU
_TILE_ELSEWHERE = 2**22


@float32_island
def angle_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean smooth L1 difference of the cosines ψ_ijk = ⟨e_ij, e_ik⟩, e_ij = (x_j − x_i)/‖x_j − x_i‖, over all i, j, k.

    e_ij is 0, with zero gradient, where x_i = x_j (or less than 1e-30 apart).

    With centred rows and K = X Xᵀ in float64, ψ_ijk = (K_jk − K_ij − K_ik + K_ii)/(d_ij d_ik): O(B²D + B³) operations
    where the differences themselves take O(B³D), and no [B, B, D] tensor. Anchors go through tile by tile, and the
    gradient is made in the same pass, so that none of the [B, B, B] entries is kept. The distances d are those of exact
    differences; three samples within about 1e-6 of the batch's extent of each other lose digits of their angles.

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
    wanted = tuple(side.requires_grad for side in sides)
    loss, gradients = _value_and_gradients(sides[0].detach(), sides[1].detach(), wanted)
    for side, gradient in zip(sides, gradients, strict=True):
        if gradient is not None:
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


def _value_and_gradients(
    student: Tensor, teacher: Tensor, wanted: tuple[bool, ...]
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the loss, and its gradient by each side where it is wanted."""
    size = student.shape[0]
    rows = [side - side.mean(0) for side in (student, teacher)]
    grams = [side @ side.T for side in rows]
    inverses = [_inverse_distances(side) for side in rows]
    # K_jk − K_ij − K_ik + K_ii = K_jk − c_ij − c_ik.
    halves = [gram - gram.diagonal()[:, None] / 2 for gram in grams]
    by_gram, by_anchor, by_length = ([torch.zeros_like(gram) for gram in grams] for _ in range(3))
    total = student.new_zeros(())
    for anchors, points in _tiles(size, student.device.type):
        sides = [
            _cosines(gram, half, inverse, anchors, points)
            for gram, half, inverse in zip(grams, halves, inverses, strict=True)
        ]
        difference = sides[0] - sides[1]
        slope = difference.clamp(-1, 1)
        # smooth_l1(x) = s·x − s²/2 with the slope s.
        total += slope.flatten() @ difference.flatten() - slope.square().sum() / 2
        slope.diagonal(points.start, 1, 2).zero_()  # ψ_ijj is 1 wherever it is not 0
        for k, cosines in enumerate(sides):
            if wanted[k]:
                by_length[k][anchors, points] = cosines.mul_(slope).sum(2)
                inverse = inverses[k][anchors]
                weighted = torch.mul(slope, inverse[:, None, :], out=cosines).mul_(inverse[:, points, None])
                by_anchor[k][anchors, points] = weighted.sum(2)
                by_gram[k][points] += weighted.sum(0)
    gradients: list[Tensor | None] = [None, None]
    for k, sign in enumerate((1, -1)):
        if wanted[k]:
            pairs = by_gram[k] - 2 * by_anchor[k] + 2 * by_length[k] * inverses[k].square()
            pairs = (pairs + pairs.T).fill_diagonal_(0)
            # Only differences of rows count: what a row receives sums to 0.
            gradients[k] = (pairs @ rows[k] - pairs.sum(1, keepdim=True) * rows[k]) * (sign / size**3)
    return total / size**3, gradients


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
