"""Layers of both sides in pairs, all of them as maps."""

from __future__ import annotations

import torch
from torch import Tensor

from congruence.methods.method import Probe


def as_map(tensor: Tensor) -> Tensor:
    """Return a map [B, C, H, W] as it is, and rows [B, C] as maps of one position.

    Example:
        >>> as_map(torch.ones(2, 3)).shape
        torch.Size([2, 3, 1, 1])
    """
    return tensor[:, :, None, None] if tensor.dim() == 2 else tensor


def paired_shapes(probe: Probe) -> list[tuple[torch.Size, torch.Size]]:
    """Return the shapes [B, C, H, W] of student and teacher, layer by layer.

    Raises:
        ValueError: for other numbers of layers on the two sides, or a layer that is neither a map nor rows.
    """
    sides = [probe.shapes[side, "maps"] for side in ("student", "teacher")]
    if len(sides[0]) != len(sides[1]):
        raise ValueError(
            f"The numbers of layers must be equal on both sides, got {len(sides[0])} of the student and "
            f"{len(sides[1])} of the teacher."
        )
    for shape in (*sides[0], *sides[1]):
        if len(shape) not in (2, 4):
            raise ValueError(f"The layers must be maps [B, C, H, W] or rows [B, C], got {list(shape)}.")
    student, teacher = ([as_map(torch.empty(shape)).shape for shape in side] for side in sides)
    return list(zip(student, teacher, strict=True))
