"""The identity of a model: its weights, other content, and structure."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from congruence.core.content import NAMED, Content
from congruence.core.fingerprint import weights_fingerprint
from congruence.models.layers import unwrap


class ModelFingerprint(NamedTuple):
    """The identity of a model: two models with equal fingerprints are treated as the same model.


    Args:
        content: hash of the state's tensors and all other data: packed weights, unsaved buffers, and tensors, arrays
            and sessions in attributes. For a model whose content cannot be read, it differs every time.
        structure: hash of the classes of its modules, and of the plain values in their attributes and states.
        unreadable: names of parts that cannot be read; empty if the model has an attribute `fingerprint`.
    """

    content: str
    structure: str
    unreadable: tuple[str, ...]

    def readable(self, who: str) -> ModelFingerprint:
        """Return it where all could be read.

        Raises:
            ValueError: naming what could not, and the way on.
        """
        if self.unreadable:
            raise ValueError(f"{who}: {self.reason()}.")
        return self

    def reason(self) -> str:
        """Say what cannot be read, and what to do."""
        what = ", ".join(self.unreadable[:3])
        return (
            f"the teacher holds {what}, whose content cannot be read, so that it cannot be told from another teacher: "
            f"name it by a text that changes with it, teacher.{NAMED} = 'NAME'"
        )


def model_fingerprint(model: nn.Module, scratch: Collection[str] = ()) -> ModelFingerprint:
    """Return the identity of a model, which is equal in every process.


    Args:
        model: the module; a text in its attribute `fingerprint` (or that of a submodule) replaces content that cannot
            be read.
        scratch: attributes that its forward changes, see `Layers.scratch`.

    Example:
        >>> import torch
        >>> one, two = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Sequential(nn.Linear(2, 2), nn.Tanh())
        >>> _ = two.load_state_dict(one.state_dict())
        >>> first, second = model_fingerprint(one), model_fingerprint(two)
        >>> first.content == second.content, first.structure == second.structure
        (True, False)
    """
    inner = unwrap(model)
    weights, unreadable = weights_fingerprint(model.state_dict())
    content = Content()
    content.add_module("", inner, weights=False, scratch=scratch)
    unreadable = content.unreadable + ([] if isinstance(vars(inner).get(NAMED), str) else unreadable)
    if content.data:
        weights = hashlib.sha256(f"{weights} {content.data}".encode()).hexdigest()[:16]
    if unreadable:
        weights = f"unknown {uuid.uuid4().hex[:8]}, see its attribute '{NAMED}'"
    return ModelFingerprint(weights, content.structure, tuple(unreadable))


def state_fingerprint(state: Mapping[str, Any]) -> ModelFingerprint:
    """Return the identity of a model by its state dict alone, as of a sharded one, whose parts hold FSDP's objects.

    Example:
        >>> first, second = (state_fingerprint(nn.Linear(2, 2).state_dict()) for _ in range(2))
        >>> first.structure == second.structure, first.content == second.content
        (True, False)
    """
    weights, unreadable = weights_fingerprint(state)
    shapes = str([(name, list(value.shape)) for name, value in state.items() if isinstance(value, Tensor)])
    return ModelFingerprint(weights, hashlib.sha256(shapes.encode()).hexdigest()[:16], tuple(unreadable))
