"""Feature maps of two sizes pooled to one, and checks of lists of maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from congruence.core import check


def pooled_alike(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two feature maps to the size of the smaller, each side of the image by itself.

    Shape:
        `first` [B, C, H, W], `second` [B, C', H', W']; both return with min(H, H') × min(W, W') positions. Of videos
        [B, C, T, H, W] the time is a further side.

    Example:
        >>> import torch
        >>> [list(x.shape) for x in pooled_alike(torch.ones(2, 3, 8, 8), torch.ones(2, 5, 4, 4))]
        [[2, 3, 4, 4], [2, 5, 4, 4]]
    """
    if first.dim() != second.dim():
        names = f"{check.shape(first)} and {check.shape(second)}"
        check.fail("pooled_alike", "second", "a map of as many dimensions as `first`", names)
    size = tuple(min(sides) for sides in zip(first.shape[2:], second.shape[2:], strict=True))
    return _pooled(first, size), _pooled(second, size)


def pooled_to(maps: Tensor, side: int) -> Tensor:
    """Average-pool the sides of a map that are longer than `side` to that many positions.

    Shape:
        `maps` [B, C, H, W], or [B, C, T, H, W] of a video.

    Example:
        >>> import torch
        >>> pooled_to(torch.ones(2, 3, 8, 2), 4).shape
        torch.Size([2, 3, 4, 2])
    """
    return _pooled(maps, tuple(min(each, side) for each in maps.shape[2:]))


def _pooled(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    sides: tuple[int, ...] = maps.shape[2:]
    if sides == size:
        return maps
    if all(side % wanted == 0 for side, wanted in zip(sides, size, strict=True)):
        window = [side // wanted for side, wanted in zip(sides, size, strict=True)]
        return F.avg_pool3d(maps, window) if len(size) == 3 else F.avg_pool2d(maps, window)
    # Not above, since its backward varies on GPUs.
    if len(size) == 3:
        return F.adaptive_avg_pool3d(maps, (size[0], size[1], size[2]))
    return F.adaptive_avg_pool2d(maps, (size[0], size[1]))


def check_maps(function: str, /, **maps: Tensor) -> None:
    """Check that arguments are maps [B, C, H, W], or all of them videos' maps [B, C, T, H, W].

    Example:
        >>> import torch
        >>> check_maps("at", first=torch.ones(2, 3))
        Traceback (most recent call last):
        ValueError: `at`: `first` must be a non-empty 4-D tensor, got shape [2, 3].
    """
    videos = all(isinstance(each, Tensor) and each.dim() == 5 for each in maps.values())
    check.floating(function, 5 if videos else 4, **maps)


def check_lists(function: str, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], *, least: int) -> None:
    """Check two lists of maps [B, C_i, H_i, W_i]: one B, as many levels, and level by level the same channels.

    Example:
        >>> import torch
        >>> check_lists("fsp_loss", [torch.ones(2, 3, 4, 4)], [torch.ones(2, 3, 4, 4)], least=2)
        Traceback (most recent call last):
        ValueError: `fsp_loss`: `student_maps` must be a list of 2 or more maps, got 1.
    """
    for argument, maps in (("student_maps", student_maps), ("teacher_maps", teacher_maps)):
        if not isinstance(maps, (list, tuple)) or len(maps) < least:
            got = len(maps) if isinstance(maps, (list, tuple)) else type(maps).__name__
            check.fail(function, argument, f"a list of {least} or more maps", got)
        named = {f"{argument}[{k}]": tensor for k, tensor in enumerate(maps)}
        check.floating(function, 4, **named)
        check.same_dtype(function, **named)
    if len(student_maps) != len(teacher_maps):
        check.fail(function, "teacher_maps", f"as many as `student_maps` ({len(student_maps)})", len(teacher_maps))
    check.same_device(function, student_maps=student_maps[0], teacher_maps=teacher_maps[0])
    for k, (student, teacher) in enumerate(zip(student_maps, teacher_maps, strict=True)):
        if student.shape[0] != student_maps[0].shape[0] or student.shape[:2] != teacher.shape[:2]:
            raise ValueError(
                f"`{function}`: `student_maps` and `teacher_maps` must have the same rows and, level by level, the "
                f"same channels, got `student_maps[{k}]` {check.shape(student)}, `teacher_maps[{k}]` "
                f"{check.shape(teacher)}."
            )
