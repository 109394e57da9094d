"""An outline of a checkpoint, key by key and without tensors, by which damaged files are detected."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

KEY = "outline"  # of a checkpoint
_PLAIN = (bool, int, float, str, bytes)
_SHOWN = 40


def outline(value: Any) -> dict[str, str]:
    """Describe the value under each dotted key: plain values themselves, tensors by dtype and shape, others by kind.

    Example:
        >>> import torch
        >>> outline({"position": {"step": 3}, "weight": torch.ones(2, 1), "names": ["a"]})["weight"]
        'torch.float32 [2, 1]'
        >>> outline({"position": {"step": 3}, "names": ["a"]})
        {'': 'dict of 2', 'position': 'dict of 1', 'position.step': 'int 3', 'names': "list of 1: ['a']"}
    """
    lines: dict[str, str] = {}
    _walk(value, "", lines)
    return lines


def size(value: Any) -> int:
    """Return the size in bytes of all tensors in nested tables and lists.

    Example:
        >>> import torch
        >>> size({"weight": torch.ones(2, 3), "step": 3, "more": [torch.ones(1)]})
        28
    """
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(map(size, inner))


def fault(content: Mapping[str, Any]) -> str:
    """Describe in a clause how a checkpoint differs from its outline; "" if it does not, or is older and has none.

    Example:
        >>> state = {"position": {"step": 3}}
        >>> fault({**state, "outline": outline(state)}), fault(state)
        ('', '')
        >>> fault({"position": {"step": "3"}, "outline": outline(state)})
        "'position.step' is str '3', not int 3"
    """
    if KEY not in content:
        return ""
    told, now = content[KEY], outline({key: value for key, value in content.items() if key != KEY})
    if not isinstance(told, Mapping) or not all(isinstance(text, str) for pair in told.items() for text in pair):
        return f"'{KEY}' is not a table of texts"
    for key, was in told.items():
        if key and key not in now:
            return f"'{_cut(key)}' is missing"
        if now[key] != was and not _tables(now[key], was):
            return f"'{_cut(key)}' is {_cut(now[key])}, not {_cut(was)}"
    more = next((key for key in now if key not in told), None)
    return "" if more is None else f"'{_cut(more)}' was not written there"


def _tables(*lines: str) -> bool:
    """Whether all descriptions are of tables, in which case their keys show the difference."""
    return all(line.startswith("dict of ") for line in lines)


def _walk(value: Any, key: str, lines: dict[str, str]) -> None:
    kind = type(value).__name__
    if isinstance(value, Tensor):
        lines[key] = f"{value.dtype} {list(value.shape)}"
    elif isinstance(value, np.ndarray):
        lines[key] = f"{value.dtype} {list(value.shape)} {zlib.crc32(np.ascontiguousarray(value).tobytes()):08x}"
    elif value is None or isinstance(value, _PLAIN):
        lines[key] = f"{kind} {_text(value)}"
    elif isinstance(value, Mapping):
        lines[key] = f"dict of {len(value)}"
        for name, item in value.items():
            _walk(item, f"{key}.{_name(name)}".lstrip("."), lines)
    elif isinstance(value, list | tuple) and all(item is None or isinstance(item, _PLAIN) for item in value):
        lines[key] = f"{kind} of {len(value)}: {_text(value)}"
    elif isinstance(value, list | tuple):
        lines[key] = f"{kind} of {len(value)}"
        for number, item in enumerate(value):
            _walk(item, f"{key}.{number}".lstrip("."), lines)
    else:
        lines[key] = kind


def _name(name: Any) -> str:
    return name if isinstance(name, str) else repr(name)


def _text(value: Any) -> str:
    """Format a plain value; a long one by its beginning and a checksum."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… {zlib.crc32(text.encode()):08x}"


def _cut(text: str) -> str:
    return text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]}…{text[-_SHOWN:]}"
