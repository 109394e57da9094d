"""What a weights file holds: read without executing anything, and the one state dict in it found by one rule."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from congruence.core.files import archive_fault

LOG = logging.getLogger("congruence")
# By which state dicts go in other people's checkpoints; they come before keys that nobody knows.
_KNOWN = frozenset(
    (
        *("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params"),
        *("student", "teacher", "ema", "model_ema", "params_ema"),
        *("state_dict_ema", "model_state_dict_ema", "ema_state_dict"),
    )
)
_NEVER = re.compile("optim|sched|scaler")  # the tensors under such a key are no model's
_DEEPEST = 3
CHECKSUM = "sha256"  # in the header of a file of `save_weights`: of the header without it, and of the tensors


class ChangedError(ValueError):
    """A file holds other bytes than were written: a flipped bit, a copy cut short."""


def split_key(path: Path) -> tuple[Path, str | None]:
    """Take "FILE#KEY" apart, where no file is called so."""
    name, mark, key = path.name.rpartition("#")
    return (path, None) if not (mark and name) or path.exists() else (path.with_name(name), key)


def content_of(path: Path) -> Any:
    """Read a file of safetensors, or one of torch's with nothing but tensors, plain values and what is harmless."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        tensors = load_file(path)  # first: of a file that is cut short it says so
        _check_sum(path)
        return tensors
    with torch.serialization.safe_globals(_harmless()):
        return torch_content(path)


def torch_content(path: Path) -> Any:
    """Read a file of torch's own format, without executing a pickle, whose archive's checksums hold.

    Raises:
        ChangedError: if they do not.
        Exception: what `torch.load` raises of what it cannot read.
    """
    fault = archive_fault(path)
    if fault:
        raise ChangedError(f"it holds other bytes than were written, in {fault}")
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_sum(path: Path) -> None:
    """Hold a file to the checksum in its header, where `save_weights` wrote it."""
    header = header_of(path)
    metadata = header.get("__metadata__")
    kept = metadata.pop(CHECKSUM, None) if isinstance(metadata, dict) else None
    if kept is None:
        return
    with open(path, "rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        tensors = hashlib.file_digest(file, "sha256").hexdigest()
    if kept != _sum(header, tensors):
        raise ChangedError("it holds other bytes than were written")


def _sum(header: Mapping[str, Any], tensors: str) -> str:
    return hashlib.sha256(f"{json.dumps(header, sort_keys=True)} {tensors}".encode()).hexdigest()


def _harmless() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return what checkpoints often hold beside tensors, whose making runs no code of the file's: options, numbers."""
    scalar = np.float64(0.0).__reduce__()[0]  # it has moved between versions of NumPy, and files name the old place
    if isinstance(scalar, str):
        return [argparse.Namespace]
    kinds = {type(np.dtype(kind)) for kind in "?bhilqBHILQefdFD"}
    places = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    return [argparse.Namespace, np.dtype, *kinds, *((scalar, place) for place in places)]


def why_not(error: Exception) -> str:
    """Say why a file cannot be read, with a way on where Python objects are in it."""
    text = str(error)
    if isinstance(error, ChangedError):
        return text
    if "weights_only" not in text and "Weights only load failed" not in text:
        return f"it is cut short or in another format ({type(error).__name__})"
    found = re.search(r"GLOBAL ([\w.]+)", text)
    what = f" ('{found[1]}')" if found else ""
    return (
        f"it is not a file of tensors only, and Python objects in it are never executed{what}; where you trust it, "
        f"load it by torch.load and save its state dict alone"
    )


def state_dict_in(content: Any, path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Find the one state dict in what a file holds: the content itself, or what lies under the only key that has one.

    Where several keys have one, the only one of a usual name ("state_dict", "model", ...) is taken. A line of the log
    says which.

    Args:
        content: of the file.
        path: of the file, for sentences.
        key: under which to look; dots lead further down.

    Raises:
        ValueError: if there is none, or there are several.
    """
    taken: list[str] = []
    for part in key.split(".") if key else ():
        if not isinstance(content, Mapping) or part not in content:
            has = f"has {_keys(content)}" if isinstance(content, Mapping) else f"is {type(content).__name__}"
            raise ValueError(f"The weights file '{path}' has no key '{key}': it {has}.")
        content = content[part]
        taken.append(part)
    whole = content
    while isinstance(content, Mapping) and not _is_state(content):
        found = _leading(content)
        found = found if len(found) == 1 else [name for name in found if name in _KNOWN] or found
        if len(found) > 1:
            ways = ", ".join(f"'{path.name}#{'.'.join([*taken, name])}'" for name in found)
            raise ValueError(f"The weights file '{path}' holds several state dicts: say which, by one of {ways}.")
        if not found:
            break
        taken.append(found[0])
        content = content[found[0]]
    if not isinstance(content, Mapping) or not _is_state(content):
        kind = f"keys {_keys(whole)}" if isinstance(whole, Mapping) else type(whole).__name__
        raise ValueError(
            f"The weights file '{path}' holds no state dict (a mapping from names to tensors), but {kind}."
        )
    if taken:
        LOG.info("The weights in '%s' are those under its key '%s'.", path, ".".join(taken))
    return dict(content)


def _is_state(content: Mapping[Any, Any]) -> bool:
    return len(content) > 0 and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())


def _leading(content: Mapping[Any, Any], depth: int = 1) -> list[str]:
    """Return the keys below which a state dict lies."""
    return [
        name
        for name, value in content.items()
        if isinstance(name, str)
        and isinstance(value, Mapping)
        and not _NEVER.search(name.lower())
        and (_is_state(value) or (depth < _DEEPEST and _leading(value, depth + 1)))
    ]


def _keys(content: Mapping[Any, Any]) -> str:
    return ", ".join(repr(key) for key in list(content)[:5])


def header_of(path: Path) -> dict[str, Any]:
    """Return the header of a safetensors file; empty if it has none that can be read."""
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > path.stat().st_size:
                return {}
            header = json.loads(file.read(size))
    except (OSError, ValueError):
        return {}
    return header if isinstance(header, dict) else {}


def in_order(file: bytes) -> bytes:
    """Return a safetensors file with its metadata in the order of their keys, and a checksum among them.

    The library's own order differs between writes.
    """
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    checksum = _sum(header, hashlib.sha256(memoryview(file)[8 + size :]).hexdigest())
    header["__metadata__"] = dict(sorted({**header["__metadata__"], CHECKSUM: checksum}.items()))
    return head_of(header) + file[8 + size :]


def head_of(header: Mapping[str, Any]) -> bytes:
    """Return what stands before the tensors in a safetensors file.

    Example:
        >>> head_of({"a": 1})
        b'\\x08\\x00\\x00\\x00\\x00\\x00\\x00\\x00{"a":1} '
    """
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text
