"""A short name for a model's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return a short hash of a model's weights, whatever else its state holds.

    Example:
        >>> fingerprint({"weight": torch.ones(2)}) == fingerprint({"weight": torch.ones(2), "extra": None})
        True
    """
    digest = hashlib.sha256()
    for name, tensor in sorted((name, value) for name, value in state.items() if isinstance(value, Tensor)):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
