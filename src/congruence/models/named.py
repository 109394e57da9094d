"""Models by "KIND:REST" where a model is named in text: what a kind is, and which function loads it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from congruence.core import check
from congruence.models.program_files import load_exported, load_onnx, load_script


def _adapter(module: str, function: str) -> Callable[..., nn.Module]:
    """Return the loader of an adapter, which is imported when it is called: adapters stand on what is here."""

    def load(rest: str, **given: Any) -> nn.Module:
        made: nn.Module = getattr(importlib.import_module(f"congruence.models.adapters.{module}"), function)(
            rest, **given
        )
        return made

    return load


# By kind, what makes the model of the rest, trusted or not, and of options; it imports what it needs when it is called.
LOADERS: dict[str, Callable[..., nn.Module]] = {
    "jit": load_script,
    "export": load_exported,
    "onnx": load_onnx,
    "hf": _adapter("hugging_face", "load_hf"),
    "st": _adapter("sentences", "load_st"),
    "timm": _adapter("timm_models", "load_timm"),
    "text": _adapter("text_encoders", "load_text"),
}
OF_FILES = frozenset({"jit", "export", "onnx"})  # the kinds whose rest is a file, which says all of the model
TAKE_OPTIONS = frozenset({"hf", "timm", "text"})


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
    if parts is None:
        return name
    kind, rest = parts
    if kind == "text":
        return name
    path = Path(rest).expanduser()
    looks = rest.startswith((".", "~")) or (path.is_dir() and (kind != "timm" or "/" in rest))
    return f"{kind}:{path.absolute()}" if kind in OF_FILES or looks else name


def is_drawn(name: str) -> bool:
    """Whether a name says an architecture of timm alone, without weights.

    Example:
        >>> is_drawn("timm:resnet18"), is_drawn("timm:resnet18.a1_in1k"), is_drawn("hf:bert"), is_drawn("resnet8")
        (True, False, False, False)
    """
    parts = split(name)
    return parts is not None and parts[0] == "timm" and "." not in parts[1] and "/" not in parts[1]


def load(name: str, *, trust: bool = False, **options: Any) -> nn.Module:
    """Load the model that "KIND:REST" names, in training mode if it has modes.


    Args:
        name: "hf:FOLDER", "st:FOLDER", "timm:NAME", "onnx:FILE", "export:FILE", "jit:FILE", or
            "text:transformer" and "text:static", which are untrained.
        trust: whether code in it may run.
        options: options of the kinds that have some: see `load_hf`, `load_timm` and `load_text`.

    Raises:
        ValueError: for a text without a kind, and for the errors of its loader.

    Example:
        >>> load("hf:/no/such/folder")
        Traceback (most recent call last):
        ValueError: There is no folder '/no/such/folder' for the model 'hf:/no/such/folder'.
    """
    parts = split(name)
    if parts is None:
        check.fail("load", "name", f"'KIND:REST' of a kind in {sorted(LOADERS)}", repr(name))
    if options and parts[0] not in TAKE_OPTIONS:
        raise ValueError(f"The model '{name}' has no options, got {', '.join(options)}.")
    return LOADERS[parts[0]](parts[1], trust=trust, **options)
