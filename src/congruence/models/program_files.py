"""Programs in files as models: TorchScript, and what `torch.export.save` writes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from congruence.core import check
from congruence.core.importing import UntrustedError
from congruence.models.onnx_model import OnnxModel


def load_script(rest: str, *, trust: bool) -> nn.Module:
    """Return the TorchScript module in a file, on the host.

    Raises:
        ValueError: without trust, since such a file can run code; for one that is absent or no TorchScript.
    """
    path = _trusted("jit", rest, trust)
    loaded: nn.Module = _read(lambda: torch.jit.load(str(path), map_location="cpu"), path, "TorchScript")
    return loaded


def load_exported(rest: str, *, trust: bool) -> nn.Module:
    """Return the exported program in a file as a module whose layers run one by one, so that they can be read.

    Raises:
        ValueError: without trust, since such a file can run code; for one that is absent or no exported program.
    """
    path = _trusted("export", rest, trust)
    module: nn.Module = _read(lambda: torch.export.unflatten(torch.export.load(str(path))), path, "an exported program")
    return module


def load_onnx(rest: str, *, trust: bool) -> nn.Module:
    """Return the model of an ONNX file, which holds no code: it needs no trust."""
    return OnnxModel(rest)


def _trusted(kind: str, rest: str, trust: bool) -> Path:
    if not trust:
        raise UntrustedError(f"The file of '{kind}:{rest}' can run code: allow it with trust=True, or --trust.")
    path = Path(rest).expanduser()
    if not path.is_file():
        raise ValueError(f"There is no file '{path}'.")
    return path


def _read(load: Callable[[], Any], path: Path, what: str) -> Any:
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning):  # the file is there, whatever is advised now
                warnings.filterwarnings("ignore", category=category)
            return load()
    except Exception as error:  # torch's readers may raise anything
        raise ValueError(f"The file '{path}' is not {what}, or is damaged ({check.sentence(error)[:200]}).") from error
