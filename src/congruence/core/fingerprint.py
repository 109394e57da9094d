"""A short name for a model's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor

from congruence.core.content import tensor_bytes


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return a short hash of a model's weights alone; `models.fingerprint` covers the rest of its content.

    Example:
        >>> import torch
        >>> fingerprint({"weight": torch.ones(2)}) == fingerprint({"weight": torch.ones(2), "extra": None})
        True
    """
    return weights_fingerprint(state)[0]


def weights_fingerprint(state: Mapping[str, Tensor]) -> tuple[str, list[str]]:
    """Return the hash, and the names of tensors whose bytes cannot be read."""
    digest, unreadable = hashlib.sha256(), []
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    for name in sorted(tensors):
        digest.update(name.encode())
        parts = tensor_bytes(tensors[name])
        if parts is None:
            unreadable.append(f"{name} ({type(tensors[name]).__name__})")
        for part in parts or []:
            digest.update(part)
    return digest.hexdigest()[:16], unreadable
