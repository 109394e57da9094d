"""`toy`: points in two or three dimensions (moons, clusters) that show what a method does to their arrangement."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from congruence.core import check

_SPREAD = 0.15  # deviation of a cluster whose centre has distance 1 from the origin


class Toy(NamedTuple):
    """A configuration: points float32 [N, 2 or 3] of scale 1, and the group of each, int64 [N]."""

    name: str
    points: Tensor
    labels: Tensor


def _moons(seed: int) -> tuple[Any, Any]:
    from sklearn.datasets import make_moons

    points, labels = make_moons(700, noise=0.05, random_state=seed)
    return points - points.mean(0), labels


def _blobs(centres: list[tuple[float, ...]], seed: int) -> tuple[Any, Any]:
    from sklearn.datasets import make_blobs

    points, labels = make_blobs(1000, centers=np.array(centres), cluster_std=_SPREAD, random_state=seed)
    return points, labels


def _circle(count: int) -> list[tuple[float, float]]:
    return [(math.cos(2 * math.pi * k / count), math.sin(2 * math.pi * k / count)) for k in range(count)]


def _clusters(seed: int) -> tuple[Any, Any]:
    return _blobs(list(_circle(5)), seed)


def _ten_clusters(seed: int) -> tuple[Any, Any]:
    return _blobs(list(_circle(10)), seed)


def _clusters3d(seed: int) -> tuple[Any, Any]:
    return _blobs([*((x, y, 0.0) for x, y in _circle(3)), (0.0, 0.0, 1.0), (0.0, 0.0, -1.0)], seed)


TOYS: Mapping[str, Callable[[int], tuple[Any, Any]]] = MappingProxyType(
    {"two-moons": _moons, "clusters": _clusters, "ten-clusters": _ten_clusters, "clusters3d": _clusters3d}
)


def toy(name: str, *, seed: int = 0) -> Toy:
    """Return the points of a toy, a pure function of the seed.

    Args:
        name: "two-moons" (700 points), "clusters" (1000 in five Gaussian clusters around a circle), "ten-clusters"
            (1000 in ten) or "clusters3d" (1000 in five clusters at the corners of a double pyramid).
        seed: seed of the points.

    Returns:
        The points and their groups.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> points = toy("clusters3d").points
        >>> points.shape, torch.equal(points, toy("clusters3d", seed=0).points)
        (torch.Size([1000, 3]), True)

    Reference:
        Feature Representation Transferring to Lightweight Models via Perception Coherence, sec. 5.1 and app. E.1.

    Deviations:
        The paper names scikit-learn and the numbers of points; noise (0.05), centres and width (0.15) are ours, and so
        is ten for the "more clusters" of app. E.1.
    """
    check.hyperparameters("toy", {"name": check.Choice(tuple(TOYS))}, name=name)
    check.hyperparameters("toy", {"seed": check.Real(low=0, closed="low", integer=True)}, seed=seed)
    points, labels = TOYS[name](seed)
    return Toy(name, torch.from_numpy(points).float(), torch.from_numpy(labels).long())
