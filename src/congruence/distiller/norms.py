"""Batch norms in forwards that must not move their running statistics: of kept inputs, and of distorted views."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def _without(flag: str, models: Iterable[nn.Module]) -> Iterator[None]:
    """Turn a flag of the batch norms in training mode off for a block."""
    parts = (part for model in models for part in model.modules())
    norms = [part for part in parts if isinstance(part, _BatchNorm) and part.training and getattr(part, flag)]
    for norm in norms:
        setattr(norm, flag, False)
    try:
        yield
    finally:
        for norm in norms:
            setattr(norm, flag, True)


@contextlib.contextmanager
def at_rest(*models: nn.Module) -> Iterator[None]:
    """Let batch norms use their running statistics without updating them:

    kept inputs are not a random sample of the data. A queue may hold a single class; its statistics would change its
    features, and the running statistics that validation uses.
    """
    with _without("training", models):
        yield


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
    with _without("track_running_stats", models):
        yield
