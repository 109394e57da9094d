"""Runs of a model that must leave no trace: its state is restored afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from congruence.core import rng
from congruence.methods.method import Method


@contextlib.contextmanager
def as_found(module: nn.Module) -> Iterator[None]:
    """Restore the random generators, a model's buffers and its modules' plain attributes when the block ends.

    Inside the block the model works on copies of its buffers: writing old values back would break graphs that saved the
    buffers. A method's memories, which may be large, are not copied, because only `Method.update` writes them.

    Example:
        >>> import torch
        >>> norm = nn.BatchNorm1d(1)
        >>> with as_found(norm):
        ...     mean = norm(torch.tensor([[1.0], [3.0]])).mean()
        >>> float(norm.running_mean)
        0.0
    """
    parts = list(module.modules())
    copied = [part for part in parts if not isinstance(part, Method)]
    buffers = [(part, name, buffer) for part in copied for name, buffer in part._buffers.items() if buffer is not None]
    plain = [(part, {k: v for k, v in vars(part).items() if isinstance(v, bool | int | float | str)}) for part in parts]
    with rng.untouched():
        try:
            for part, name, buffer in buffers:
                part._buffers[name] = buffer.detach().clone()
            yield
        finally:
            for part, name, buffer in buffers:
                part._buffers[name] = buffer
            for part, values in plain:
                vars(part).update(values)
