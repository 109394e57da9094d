"""Pairs of student and teacher layers, all as maps."""

from __future__ import annotations

import torch
from torch import Tensor

from congruence.geometry.maps import pooled_alike
from congruence.methods.method import Probe, Signals


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
        ValueError: for different numbers of layers on the two sides, or a layer that is neither a map nor rows.
    """
    pairs = probe.pairs("maps")
    for shape in (shape for pair in pairs for shape in pair):
        if len(shape) not in (2, 4):
            raise ValueError(f"The layers must be maps [B, C, H, W] or rows [B, C], got {list(shape)}.")
    return [(as_map(torch.empty(s)).shape, as_map(torch.empty(t)).shape) for s, t in pairs]


def paired_maps(signals: Signals) -> list[tuple[Tensor, Tensor]]:
    """Return the maps of student and teacher, layer by layer, the larger average-pooled to the smaller's size."""
    return [pooled_alike(as_map(student), as_map(teacher)) for student, teacher in signals.pairs("maps")]
