"""Models by "KIND:REST" where a model is named in text: what a kind is, and which function loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import nn

from congruence.core import check
from congruence.models.program_files import load_exported, load_onnx, load_script


class Loader(Protocol):
    """Makes the model that a text names; what can run code is refused unless it is trusted."""

    def __call__(self, rest: str, *, trust: bool) -> nn.Module:
        """Return the model of what follows "KIND:"."""
        ...


# By kind; a loader imports what it needs when it is called.
LOADERS: dict[str, Loader] = {"jit": load_script, "export": load_exported, "onnx": load_onnx}
OF_FILES = frozenset({"jit", "export", "onnx"})  # the kinds whose rest is a file or a folder


def split(name: str) -> tuple[str, str] | None:
    """Return the kind and the rest of "KIND:REST"; None of another text, as that of a factory is.

    Example:
        >>> split("onnx:teacher.onnx"), split("resnet18_cifar"), split("package.module:make")
        (('onnx', 'teacher.onnx'), None, None)
    """
    kind, colon, rest = name.partition(":")
    return (kind, rest) if colon and rest and kind in LOADERS else None


def absolute(name: str) -> str:
    """Return the name with its file or folder from the root on, so that it can be read in another directory."""
    parts = split(name)
    if parts is None or parts[0] not in OF_FILES:
        return name
    return f"{parts[0]}:{Path(parts[1]).expanduser().absolute()}"


def load(name: str, *, trust: bool = False) -> nn.Module:
    """Make the model that "KIND:REST" names.

    Raises:
        ValueError: for a text without a kind, and as its loader does.
    """
    parts = split(name)
    if parts is None:
        check.fail("load", "name", f"'KIND:REST' of a kind in {sorted(LOADERS)}", repr(name))
    return LOADERS[parts[0]](parts[1], trust=trust)
