"""Clusters of points."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from congruence.core import check

CHECKS = {"clusters": check.COUNT, "seed": check.Real(low=0, closed="low", integer=True)}


@torch.no_grad()
def kmeans(points: Tensor, clusters: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Find K centres and assign each point to the nearest: a local minimum of Σ_i ‖x_i − c_{a_i}‖² (Lloyd, k-means++).

    The same points and seed give the same bits, whatever the number of threads.

    Shape:
        `points` [N, D]; returns centres [K, D] and the assignment int64 [N].

    Args:
        points: the points; computed on the CPU in float32, or float64 for float64 points.
        clusters: K, 1 <= K <= N.
        seed: seed of the initial centres.

    Returns:
        Centres (in the points' dtype) and assignment, on the points' device. If fewer than K points are distinct, some
        clusters are empty.

    Raises:
        ValueError: for points that are not finite, or a number of clusters out of range.

    Example:
        >>> import torch
        >>> centres, assignment = kmeans(torch.tensor([[0.0], [1.0], [10.0], [11.0]]), 2, seed=0)
        >>> sorted(centres[:, 0].tolist()), bool(assignment[0] == assignment[1] != assignment[2] == assignment[3])
        ([0.5, 10.5], True)
    """
    check.floating("kmeans", 2, points=points)
    check.hyperparameters("kmeans", CHECKS, clusters=clusters, seed=seed)
    if clusters > len(points):
        check.fail("kmeans", "clusters", f"at most the number of points ({len(points)})", clusters)
    if not bool(torch.isfinite(points).all()):
        check.fail("kmeans", "points", "finite", "NaN or infinity")
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    values = points.detach().to("cpu", torch.float64 if points.dtype == torch.float64 else torch.float32).numpy()
    # Several threads add up a centre in the order in which they finish.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = KMeans(clusters, n_init=1, random_state=seed % 2**32).fit(values)
    centres = torch.from_numpy(fitted.cluster_centers_).to(points)
    return centres, torch.from_numpy(fitted.labels_).to(points.device, torch.int64)
