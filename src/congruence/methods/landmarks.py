"""Landmark points of both networks: means of an epoch's rows, put into use at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from congruence.core.numerics import as_float64, float32_island, unit, widen
from congruence.geometry import kmeans

Weighting = Literal["none", "teacher", "own"]
ROWS_PER_CLUSTER = 32  # rows kept from the first epoch, for K-means


class LandmarkBank(nn.Module):
    """Pairs of landmarks: landmark m of the student and of the teacher are means over the same samples.

    Each row belongs to one group (such as its class) or to none. Sums run over an epoch; `end_epoch` replaces the
    landmarks by the means. A landmark without rows in an epoch keeps its value; one that never had a row is zeros, and
    not `filled`.
    With several landmarks in a group, K-means in the teacher's space splits the first rows of the group, up to 32 for
    each landmark, at the end of the group's first epoch. From then on each row counts for the nearest landmark of its
    group in the teacher's space: one step of Lloyd's algorithm for each epoch, over all rows.
    All state is in buffers. The same rows give bit-identical landmarks on every rank.

    Args:
        student_width: D_s.
        teacher_width: D_t.
        groups: number of groups.
        per_group: landmarks in each group.
        normalize: average rows of length 1; the means are not normalised again.
        weighting: "teacher" gives landmarks W_T^{+1/2} D on both sides, so that X Dᵀ becomes C W_T^{+1/2}, with
            W = D Dᵀ; "own" takes each side's own W; "none" the means themselves.
        seed: seed of K-means.

    Example:
        >>> import torch
        >>> bank = LandmarkBank(1, 1, 2)
        >>> rows = torch.tensor([[1.0], [3.0], [5.0]])
        >>> bank.update(rows, 10 * rows, torch.tensor([0, 0, -1]))
        >>> bank.end_epoch()
        >>> bank.student.tolist(), bank.teacher.tolist(), bank.filled.tolist()
        ([[2.0], [0.0]], [[20.0], [0.0]], [True, False])

    Reference:
        Qian, Li and Hu, Efficient Kernel Transfer in Knowledge Distillation, eq. 3, "Effect of Matrix W" and "Effect of
        Centers per Class".
    """

    student: Tensor
    teacher: Tensor
    student_sums: Tensor
    teacher_sums: Tensor
    counts: Tensor
    filled: Tensor
    student_weighted: Tensor
    teacher_weighted: Tensor
    pool: Tensor
    pooled: Tensor

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        groups: int,
        *,
        per_group: int = 1,
        normalize: bool = False,
        weighting: Weighting = "none",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.groups, self.per_group, self.seed = groups, per_group, seed
        self.normalize, self.weighting = normalize, weighting
        total = groups * per_group
        for name, width in (("student", student_width), ("teacher", teacher_width)):
            self.register_buffer(name, torch.zeros(total, width))
            self.register_buffer(f"{name}_sums", torch.zeros(total, width))
            if weighting != "none":
                self.register_buffer(f"{name}_weighted", torch.zeros(total, width))
        self.register_buffer("counts", torch.zeros(total, dtype=torch.int64))
        self.register_buffer("filled", torch.zeros(total, dtype=torch.bool))
        if per_group > 1:
            rows = total * ROWS_PER_CLUSTER
            self.register_buffer("pool", torch.zeros(rows, student_width + teacher_width))
            self.register_buffer("pooled", torch.zeros(groups, dtype=torch.int64))

    def landmarks(self) -> tuple[Tensor, Tensor]:
        """Return the landmarks [M, D] of student and teacher, with their weighting."""
        if self.weighting == "none":
            return self.student, self.teacher
        return self.student_weighted, self.teacher_weighted

    def share(self) -> Tensor:
        """Return the share of filled landmarks, for a mean over these only; 1 if there are none."""
        filled = self.filled.sum()
        return torch.where(filled > 0, filled / len(self.filled), 1.0)

    @torch.no_grad()
    @float32_island
    def update(self, student: Tensor, teacher: Tensor, groups: Tensor) -> None:
        """Add rows [B, D_s] and [B, D_t] of groups int64 [B], -1 for none, to the running sums."""
        student, teacher = self._prepared(student), self._prepared(teacher)
        places = groups if self.per_group == 1 else self._nearest(student, teacher, groups)
        # A matrix product, not index_add, whose summation order varies on a GPU.
        member = places[:, None] == torch.arange(len(self.counts), device=places.device)
        self.counts += member.sum(0)
        self.student_sums += member.T.to(student.dtype) @ student
        self.teacher_sums += member.T.to(teacher.dtype) @ teacher

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Replace the landmarks by the epoch's means, and reset the sums."""
        seen = self.counts > 0
        for landmarks, sums in ((self.student, self.student_sums), (self.teacher, self.teacher_sums)):
            landmarks.copy_(torch.where(seen[:, None], sums / self.counts.clamp(min=1)[:, None], landmarks))
            sums.zero_()
        self.filled |= seen
        self.counts.zero_()
        if self.per_group > 1:
            self._split()
        self._weight()

    def fix(self, student: Tensor, teacher: Tensor) -> None:
        """Set landmarks that no epoch changes."""
        self.student.copy_(student)
        self.teacher.copy_(teacher)
        self.filled.fill_(True)
        self._weight()

    def _prepared(self, rows: Tensor) -> Tensor:
        return (unit(as_float64(rows)) if self.normalize else rows).to(self.student.dtype)

    def _nearest(self, student: Tensor, teacher: Tensor, groups: Tensor) -> Tensor:
        """Return the nearest landmark of each row's group, -1 if the group has none yet; such rows wait in the pool."""
        filled = self.filled.view(self.groups, self.per_group)
        waiting = (groups >= 0) & ~filled.any(1)[groups.clamp(min=0)]
        if waiting.any():
            self._keep(torch.cat([student, teacher], 1)[waiting], groups[waiting])
        centres = as_float64(self.teacher)
        # The nearest by ‖c‖² − 2 x·c: the row's squared length is the same for all landmarks.
        distances = centres.square().sum(1) - 2 * as_float64(teacher) @ centres.T
        owner = torch.arange(self.groups, device=groups.device).repeat_interleave(self.per_group)
        allowed = (owner == groups[:, None]) & self.filled
        nearest = distances.masked_fill(~allowed, torch.inf).argmin(1)
        return torch.where(allowed.any(1), nearest, -1)

    def _keep(self, rows: Tensor, groups: Tensor) -> None:
        """Append rows to their groups' part of the pool while there is room."""
        capacity = self.per_group * ROWS_PER_CLUSTER
        member = groups[:, None] == torch.arange(self.groups, device=groups.device)
        # for each row, the number of earlier rows of its group
        before = (member.cumsum(0) - 1).gather(1, groups[:, None])[:, 0]
        offsets = self.pooled[groups] + before
        room = offsets < capacity
        self.pool[(groups * capacity + offsets)[room]] = rows[room]
        self.pooled.copy_((self.pooled + member.sum(0)).clamp(max=capacity))

    def _split(self) -> None:
        """Split the pooled rows of each group that has no landmarks yet."""
        capacity, width = self.per_group * ROWS_PER_CLUSTER, self.student.shape[1]
        for group, count in enumerate(self.pooled.tolist()):
            if count == 0:
                continue
            rows = self.pool[group * capacity : group * capacity + count]
            _, assignment = kmeans(rows[:, width:], min(self.per_group, count), seed=self.seed + group)
            for cluster in assignment.unique().tolist():
                mean, landmark = rows[assignment == cluster].mean(0), group * self.per_group + cluster
                self.student[landmark], self.teacher[landmark] = mean[:width], mean[width:]
                self.filled[landmark] = True
        self.pooled.zero_()
        self.pool.zero_()

    def _weight(self) -> None:
        if self.weighting == "none":
            return
        root = _inverse_root(self.teacher)
        own = _inverse_root(self.student) if self.weighting == "own" else root
        self.student_weighted.copy_(own @ as_float64(self.student))
        self.teacher_weighted.copy_(root @ as_float64(self.teacher))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LandmarkBank:
        """Keep sums in at least float32: in half precision a sum stops growing after a few hundred rows."""
        super()._apply(fn, recurse)
        for name, buffer in self.named_buffers(recurse=False):
            self._buffers[name] = widen(buffer)
        return self


def _inverse_root(landmarks: Tensor) -> Tensor:
    """Return W^{+1/2} of W = D Dᵀ, without directions that come only from rounding of D."""
    precision = torch.finfo(landmarks.dtype).eps
    landmarks = as_float64(landmarks)
    values, vectors = torch.linalg.eigh(landmarks @ landmarks.T)
    significant = values > values.amax().clamp(min=0) * len(values) * precision
    roots = torch.where(significant, torch.where(significant, values, 1).rsqrt(), 0)
    return (vectors * roots) @ vectors.T
