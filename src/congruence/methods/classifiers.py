"""The classifiers of student and teacher, for methods that apply them to more than the pooled features."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from congruence.core import check
from congruence.methods.method import Probe


class Classifiers(NamedTuple):
    """The Linears that give the logits of both models; they stay part of the models, not of a method."""

    student: nn.Linear
    teacher: nn.Linear


def classifiers(probe: Probe, student: str | None, teacher: str | None) -> Classifiers:
    """Return the classifiers behind the single map that a method reads of each model.

    Args:
        probe: a probe with one layer of "maps" on each side.
        student: path of the student's; None for the last Linear that takes as many features as the map has channels.
        teacher: path of the teacher's; None as for the student.

    Raises:
        ValueError: for several maps, layers that are not maps [B, C, H, W], no such Linear, or different numbers of
            classes.
    """
    pairs = probe.pairs("maps")
    if len(pairs) != 1 or any(len(shape) != 4 for shape in pairs[0]):
        shapes = "; ".join(f"{list(ours)} and {list(theirs)}" for ours, theirs in pairs)
        raise ValueError(
            f"A method that uses the classifiers needs one map [B, C, H, W] of each model, the last before pooling, "
            f"got {shapes}."
        )
    widths = (shape[1] for shape in pairs[0])
    sides = zip(("student", "teacher"), widths, (student, teacher), strict=True)
    found = Classifiers(*(find_classifier(probe.modules[side], side, width, path) for side, width, path in sides))
    if found.student.out_features != found.teacher.out_features:
        raise ValueError(
            f"The classifiers must have the same classes, got {found.student.out_features} of the student and "
            f"{found.teacher.out_features} of the teacher."
        )
    return found


def find_classifier(model: nn.Module, side: str, width: int, path: str | None) -> nn.Linear:
    """Return a model's Linear with the given number of input features: at a path, or the last that fits.


    Raises:
        ValueError: if there is none.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
        >>> find_classifier(model, "student", 3, None)
        Linear(in_features=3, out_features=2, bias=True)
    """
    linears = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    fitting = {name: layer for name, layer in linears.items() if layer.in_features == width}
    name = next(reversed(fitting), None) if path is None else path
    if name is None or name not in fitting:
        got = "there is none" if path is None else f"'{path}' is not one{check.near(path, fitting)}"
        raise ValueError(
            f"The {side}'s classifier must be a Linear of {width} features, as its map has channels, {got}: name it "
            f"with {side}_classifier=, or the map before its pooling with {side}_layer=."
        )
    return fitting[name]


def class_maps(feature_map: Tensor, classifier: nn.Linear) -> Tensor:
    """Apply a classifier at each position of a map: [B, D, H, W] → [B, C, H, W].

    Example:
        >>> import torch
        >>> class_maps(torch.ones(2, 3, 4, 4), nn.Linear(3, 5)).shape
        torch.Size([2, 5, 4, 4])
    """
    return F.conv2d(feature_map, classifier.weight[:, :, None, None], classifier.bias)
