"""The content of objects that are not written in Python: bytes that they expose, or the file they were made from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_FILES = ("_model_path", "model_path")  # attributes of sessions that were made from a file
_BESIDE = (".data", "_data")  # a file's large weights may be stored in another file


def written(value: Any) -> list[bytes] | None:
    """Return an object's content as the bytes that it exposes, or those of the file that it was made from."""
    for name in ("SerializeToString", "serialize"):
        offered = getattr(value, name, None)
        if callable(offered):
            try:
                return [bytes(memoryview(offered()))]
            except Exception:  # the name means something else here
                continue
    held = getattr(value, "_model_bytes", None)
    if isinstance(held, bytes) and held:
        return [held]
    for name in _FILES:
        path = getattr(value, name, None)
        if isinstance(path, (str, Path)) and is_file(path):
            return file_bytes(path)
    return None


def is_file(path: str | Path) -> bool:
    """Whether a text is the path of a file."""
    try:
        return bool(str(path)) and Path(path).is_file()
    except (OSError, ValueError):  # the text is not a path
        return False


def file_bytes(path: str | Path) -> list[bytes]:
    """Return the bytes of a file and of the files next to it that hold its large weights."""
    content = Path(path).read_bytes()
    files = {Path(f"{path}{end}") for end in _BESIDE}
    if Path(path).suffix == ".onnx":  # the file says where each weight is stored; the names are arbitrary
        files |= {Path(path).parent / found.decode(errors="replace") for found in _locations(content)}
    return [content, *(file.read_bytes() for file in sorted(files) if is_file(file))]


def _locations(content: bytes) -> set[bytes]:
    """Return the names of the files that hold an ONNX file's weights; each is a string after "location"."""
    starts = [found.end() for found in re.finditer(rb"\x0a\x08location\x12", content)]
    # A length of up to 127 bytes is one byte; a longer one has its low 7 bits first.
    named = set()
    for start in starts:
        length, shift = 0, 0
        for byte in content[start : start + 3]:
            length, start = length | (byte & 127) << shift, start + 1
            shift += 7
            if byte < 128:
                break
        named.add(content[start : start + length])
    return named
