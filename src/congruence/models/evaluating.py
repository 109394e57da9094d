"""Temporary evaluation mode, for models with modes and for those without."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for a block; each submodule's mode is restored afterwards."""
    modes = modes_of(module)
    set_mode(module, training=False)
    try:
        yield
    finally:
        set_modes(modes)


def modes_of(module: nn.Module) -> list[tuple[nn.Module, bool]]:
    """Return each part of a module that has a mode, with it; a frozen ScriptModule has none."""
    return [(part, part.training) for part in module.modules() if hasattr(part, "training")]


def set_modes(modes: list[tuple[nn.Module, bool]]) -> None:
    """Put each part into a mode of its own."""
    for part, mode in modes:
        part.training = mode


def set_mode(module: nn.Module, *, training: bool) -> None:
    """Put a module into a mode as `train` does; an exported program refuses that, as its graph has one mode alone.

    Example:
        >>> import torch
        >>> program = torch.export.export(nn.Linear(2, 2), (torch.ones(3, 2),))
        >>> set_mode(nn.Sequential(program.module()), training=False)
    """
    try:
        module.train(training)
    except NotImplementedError:
        module.training = training
        for child in module.children():
            set_mode(child, training=training)
