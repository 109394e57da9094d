"""Batch norms in forwards that must not move their running statistics: of kept inputs, and of distorted views."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def _moving(models: Iterable[nn.Module]) -> list[_BatchNorm]:
    """Return the batch norms in training mode."""
    parts = (part for model in models for part in model.modules())
    return [part for part in parts if isinstance(part, _BatchNorm) and part.training]


@contextlib.contextmanager
def at_rest(*models: nn.Module) -> Iterator[None]:
    """Let batch norms use their running statistics without updating them:

    kept inputs are not a random sample of the data. A queue may hold a single class; its statistics would change its
    features, and the running statistics that validation uses.
    """
    norms = _moving(models)
    for norm in norms:
        norm.training = False
    try:
        yield
    finally:
        for norm in norms:
            norm.training = True


@contextlib.contextmanager
def untracked(*models: nn.Module) -> Iterator[None]:
    """Let batch norms normalise by the batch, as ever in training, and leave their running statistics alone:

    evaluation, which uses them, sees no distorted images.

    Example:
        >>> import torch
        >>> norm = nn.BatchNorm1d(1)
        >>> with untracked(norm):
        ...     norm(torch.tensor([[1.0], [3.0]])).flatten().round().tolist()
        [-1.0, 1.0]
        >>> float(norm.running_mean), int(norm.num_batches_tracked)
        (0.0, 0)
    """
    norms = [norm for norm in _moving(models) if norm.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
