"""Logits with one prediction a position, as of segmentation and of tokens: each position as a row, and its label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_TOKENS = 3


def class_axis(shape: Sequence[int]) -> int:
    """Return which dimension holds the classes: the last of [B, C] and [B, T, C], the second of [B, C, H, W].

    Example:
        >>> class_axis([2, 7, 4]), class_axis([2, 4, 8, 8])
        (2, 1)
    """
    return len(shape) - 1 if len(shape) <= _TOKENS else 1


def positions_of(shape: Sequence[int]) -> torch.Size:
    """Return the shape of dense logits without their classes.

    Example:
        >>> positions_of([2, 7, 4]), positions_of([2, 4, 8, 8])
        (torch.Size([2, 7]), torch.Size([2, 8, 8]))
    """
    axis = class_axis(shape)
    return torch.Size([size for place, size in enumerate(shape) if place != axis])


def rows_of_positions(logits: Tensor) -> Tensor:
    """Return dense logits as rows, one a position; of logits [B, C] the rows are the samples.

    Shape:
        `logits` [B, T, C], [B, C, H, W] or [B, C, D, H, W]; returns [rows, C].

    Example:
        >>> rows_of_positions(torch.zeros(2, 4, 8, 8)).shape
        torch.Size([128, 4])
    """
    return logits.movedim(class_axis(logits.shape), -1).flatten(0, -2)


def labels_of_positions(labels: Tensor, shape: Sequence[int], what: str) -> Tensor:
    """Return the labels of dense logits as those of their rows.

    Args:
        labels: one class a position, or, in the logits' own shape, probabilities of the classes or several labels.
        shape: of the logits.
        what: which logits, for the sentence.

    Returns:
        Labels [rows], or [rows, C].

    Raises:
        ValueError: for labels of another shape.

    Example:
        >>> labels_of_positions(torch.zeros(2, 8, 8).long(), [2, 4, 8, 8], "The term 'ce'").shape
        torch.Size([128])
        >>> labels_of_positions(torch.tensor([1, 0]), [2, 4, 8, 8], "The term 'ce'")
        Traceback (most recent call last):
        ValueError: The term 'ce' reads logits [2, 4, 8, 8], whose labels must be [2, 8, 8] (a class for each \
position, negative where there is none) or [2, 4, 8, 8] (probabilities, or several labels), got [2].
    """
    places = positions_of(shape)
    if labels.shape == places:
        return labels.flatten()
    if labels.shape == torch.Size(shape):
        return rows_of_positions(labels)
    raise ValueError(
        f"{what} reads logits {list(shape)}, whose labels must be {list(places)} (a class for each position, negative "
        f"where there is none) or {list(shape)} (probabilities, or several labels), got {list(labels.shape)}."
    )


def check_positions(term: str, shapes: Mapping[torch.Size, torch.Size]) -> None:
    """Refuse logits of several grids, given by their positions."""
    if len(shapes) > 1:
        several = " and ".join(str(list(shape)) for shape in shapes.values())
        raise ValueError(
            f"The term '{term}' compares logits position by position, got {several}: let one of the models resize its "
            "own, as F.interpolate does, or read layers of one size."
        )
