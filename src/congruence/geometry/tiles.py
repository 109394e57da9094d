"""Losses of pairs for batches whose [B, B] matrices do not fit: a block of rows at a time, value and gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from congruence.core.numerics import as_float64, safe_norm, unit
from congruence.geometry.dissimilarity import euclidean
from congruence.geometry.softrank import Method, soft_rank_within

LARGE = 4096  # rows of a batch beyond which the losses take these forms
_ENTRIES, _ENTRIES_ELSEWHERE = 2**20, 2**24  # of a block [rows, B], on the CPU and on a GPU
_WHOLE = 2**24  # entries of all samples' own matrices up to which they are made at once
_LEAST_DISTANCE = 1e-6
_COSINE_ZERO = 1e-15
Part = Callable[..., Tensor]  # (rows of the block, *tensors) → the block's part of the sum


def is_large(rows: Tensor) -> bool:
    """Whether a batch is one for these forms; under torch.compile and torch.func it never is."""
    return len(rows) > LARGE and _eager()


def _eager() -> bool:
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


def sum_over_samples(part: Part, *tensors: Tensor, each: int) -> Tensor:
    """Sum `part(samples, *tensors)`, which makes matrices of `each` entries of every sample.

    Where those of the batch have more than 2²⁴ entries, a few samples are taken at a time, as by `sum_over_blocks`.

    Example:
        >>> tokens = torch.tensor([[[1.0], [2.0]], [[0.0], [3.0]]])
        >>> sum_over_samples(lambda samples, x: (x[samples] @ x[samples].mT).sum(), tokens, each=4).item()
        18.0
    """
    if len(tensors[0]) * each <= _WHOLE or not _eager():
        return part(slice(None), *tensors)
    entries = _ENTRIES if tensors[0].device.type == "cpu" else _ENTRIES_ELSEWHERE
    return sum_over_blocks(part, *tensors, entries=max(1, entries // each) * len(tensors[0]))


def sum_over_blocks(part: Part, *tensors: Tensor, entries: int | None = None) -> Tensor:
    """Sum `part(rows, *tensors)` over blocks of rows, of which one at a time is in memory.

    The gradient is found in the same pass: each block's graph is made, run backwards and freed. Time is that of the
    plain form; memory is that of one block [rows, B] instead of [B, B].

    Args:
        part: from a slice of rows and the tensors to a number. It must be differentiable by torch's own means.
        tensors: those that it depends on; the first has a row for each sample.
        entries: the size of a block's matrix; None for one that suits the device.

    Raises:
        ValueError: in the backward, where a gradient of the gradient is wanted.

    Example:
        >>> x = torch.tensor([[1.0], [2.0], [4.0]], requires_grad=True)
        >>> squares = sum_over_blocks(lambda rows, x: (x[rows] @ x.T).sum(), x, entries=3)
        >>> squares.backward()
        >>> squares.item(), x.grad.flatten().tolist()
        (49.0, [14.0, 14.0, 14.0])
    """
    if entries is None:
        entries = _ENTRIES if tensors[0].device.type == "cpu" else _ENTRIES_ELSEWHERE
    total: Tensor = _Blocks.apply(part, max(1, entries // len(tensors[0])), *tensors)
    return total


class _Blocks(torch.autograd.Function):
    """The gradient by each tensor is found in the forward, up to the factor that the backward brings."""

    @staticmethod
    def forward(ctx: Any, part: Part, step: int, *tensors: Tensor) -> Tensor:
        wanted = [position for position, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
        leaves = [tensor.detach() for tensor in tensors]
        for position in wanted:
            leaves[position].requires_grad_()
        gradients: list[Tensor | None] = [None] * len(tensors)
        for position in wanted:
            gradients[position] = torch.zeros_like(tensors[position])
        total = tensors[0].new_zeros(())
        for start in range(0, len(tensors[0]), step):
            rows = slice(start, min(start + step, len(tensors[0])))
            with torch.set_grad_enabled(bool(wanted)):
                value = part(rows, *leaves)
            total += value.detach()
            if value.requires_grad:
                found = torch.autograd.grad(value, [leaves[position] for position in wanted], allow_unused=True)
                for position, gradient in zip(wanted, found, strict=True):
                    sum_so_far = gradients[position]
                    if gradient is not None and sum_so_far is not None:
                        sum_so_far += gradient
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise ValueError(
                "A loss that is computed in blocks, because its matrices are large, keeps no graph of its gradient: a "
                "backward with create_graph=True, or a gradient of the gradient, needs a smaller batch."
            )
        return None, None, *(None if saved is None else saved * gradient for saved in ctx.saved_tensors)


def pkt(student: Tensor, teacher: Tensor, *, eps: float, entries: int | None = None) -> Tensor:
    """`congruence.losses.pkt_loss` in blocks.

    Shape:
        `student` [B, D_s], `teacher` [B, D_t]; returns [], in float64 where the device has it.

    Example:
        >>> round(pkt(torch.ones(2, 3), torch.eye(2), eps=1e-7).item(), 4)
        0.0283
    """
    ours, theirs = (x / (safe_norm(x, keepdim=True) + eps) for x in map(as_float64, (student, teacher)))

    def part(rows: slice, ours: Tensor, theirs: Tensor) -> Tensor:
        student_rows, teacher_rows = (_neighbours(side[rows], side) for side in (ours, theirs))
        return (teacher_rows * torch.log((teacher_rows + eps) / (student_rows + eps))).sum()

    return sum_over_blocks(part, ours, theirs, entries=entries) / len(student) ** 2


def _neighbours(rows: Tensor, all_rows: Tensor) -> Tensor:
    similarities = ((rows @ all_rows.T + 1) / 2).clamp(min=0)
    return similarities / similarities.sum(1, keepdim=True)


def correlation_congruence(
    student: Tensor, teacher: Tensor, kernel: Callable[..., Tensor], *, entries: int | None = None
) -> Tensor:
    """`congruence.losses.correlation_congruence_loss` in blocks, of rows that are prepared, by a kernel [B, D], [N, D].

    Shape:
        `student` [B, D_s], `teacher` [B, D_t]; returns [].

    Example:
        >>> from congruence.geometry.kernels import bilinear_kernel
        >>> unit_rows = torch.ones(2, 1), torch.eye(2)
        >>> correlation_congruence(*unit_rows, bilinear_kernel).item()
        0.5
    """

    def part(rows: slice, student: Tensor, teacher: Tensor) -> Tensor:
        return (kernel(student[rows], student) - kernel(teacher[rows], teacher)).square().sum()

    return sum_over_blocks(part, student, teacher, entries=entries) / len(student) ** 2


def rkd_distance(student: Tensor, teacher: Tensor, *, entries: int | None = None) -> Tensor:
    """`congruence.losses.rkd_distance_loss` in blocks: a first pass for the mean distances, and one for the loss.

    Shape:
        `student` [B, D_s], `teacher` [B, D_t], B >= 2; returns [].

    Example:
        >>> student, teacher = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [5.0]])
        >>> round(rkd_distance(student, teacher).item(), 4)
        0.045
    """
    pairs = len(student) * (len(student) - 1)

    def mean(rows: slice, x: Tensor) -> Tensor:
        return (_distances(x, rows) / pairs).sum()

    means = [sum_over_blocks(mean, side, entries=entries) for side in (student, teacher)]
    scales = [torch.where(each > 0, each, torch.ones_like(each)) for each in means]

    def part(rows: slice, student: Tensor, teacher: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
        return F.smooth_l1_loss(_distances(student, rows) / ours, _distances(teacher, rows) / theirs, reduction="sum")

    return sum_over_blocks(part, student, teacher, *scales, entries=entries) / len(student) ** 2


def _distances(x: Tensor, rows: slice) -> Tensor:
    """Return d_ij of a block of rows i.

    As d_ij = d_ji, and what is done with it is the same for both, a row's gradient as i equals its gradient as j: the
    first is doubled (2x − x is x to the last bit), and the second is not computed.
    """
    columns = x.detach()
    distances = euclidean(2 * x[rows] - columns[rows], columns).clamp(min=_LEAST_DISTANCE)
    own = torch.arange(rows.start, rows.stop, device=x.device)[:, None] == torch.arange(len(x), device=x.device)
    return distances.masked_fill(own, 0)


def perception_coherence(
    student: Tensor,
    teacher: Tensor,
    measures: Sequence[str],
    temperatures: Sequence[float],
    method: Method,
    *,
    entries: int | None = None,
) -> Tensor:
    """`congruence.losses.perception_coherence_loss` in blocks of anchors, whose ranks are independent.

    Args:
        student: [B, D_s].
        teacher: [B, D_t].
        measures: "cosine" or "euclidean", the student's and the teacher's.
        temperatures: the student's and the teacher's.
        method: of the soft ranks.
        entries: the size of a block's matrix; None for one that suits the device.

    Example:
        >>> teacher = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> perception_coherence(3 * teacher, teacher, ("cosine", "cosine"), (0.1, 0.1), "auto").item() < 1e-12
        True
    """
    dtypes = student.dtype, teacher.dtype
    sides = [
        unit(as_float64(x)) if measure == "cosine" else x
        for x, measure in zip((student, teacher), measures, strict=True)
    ]

    def ranks(rows: slice, x: Tensor, side: int) -> Tensor:
        if measures[side] == "euclidean":
            return soft_rank_within(euclidean(x[rows], x), temperatures[side], method)
        values = (1 - x[rows] @ x.T) / 2
        values = (values * (values > _COSINE_ZERO)).clamp(max=1).to(dtypes[side])
        own = torch.arange(rows.start, rows.stop, device=x.device)[:, None] == torch.arange(len(x), device=x.device)
        return soft_rank_within(values.masked_fill(own, 0), temperatures[side], method, 1.0)

    def part(rows: slice, ours: Tensor, theirs: Tensor) -> Tensor:
        return (ranks(rows, ours, 0) - ranks(rows, theirs, 1)).square().sum()

    return sum_over_blocks(part, *sides, entries=entries) / len(student) ** 3
