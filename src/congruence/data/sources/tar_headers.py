"""The members of a tar file and where their bytes are: ten times as fast as `tarfile`, which is made for more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from congruence.core.files import damaged

_BLOCK = 512
_REGULAR, _WITHOUT_DATA = b"0\x007", b"123456"


class TarMember(NamedTuple):
    """A regular file in a tar file."""

    name: str
    offset: int
    length: int


def tar_members(path: Path) -> Iterator[TarMember]:
    """Yield the regular files in an uncompressed tar file, in order; only headers are read.

    The formats ustar, GNU (long names, sizes of more than 8 GB) and pax are understood.

    Args:
        path: of the tar file.

    Raises:
        ValueError: for a file that is no tar file, is cut short or has sparse members.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise damaged(path, f"it cannot be read ({error.strerror})") from None
    try:
        yield from _members(path, descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def _members(path: Path, descriptor: int, end: int) -> Iterator[TarMember]:
    at, name, length = 0, "", None  # what a header in front says of the next member
    while True:
        header = os.pread(descriptor, _BLOCK, at)
        if len(header) < _BLOCK:
            raise damaged(path, "it lacks the mark of a tar file's end (was it cut short?)")
        kind, size = header[156:157], _number(path, header[124:136])
        if not any(header):
            return
        if _number(path, header[148:156]) != sum(header) - sum(header[148:156]) + 8 * 32:
            raise damaged(path, f"it cannot be read as a tar file (no header at byte {at:,})")
        data = at + _BLOCK
        if kind in (b"x", b"L"):
            at = data + -(-size // _BLOCK) * _BLOCK
            content = os.pread(descriptor, size, data)
            if kind == b"L":
                name = os.fsdecode(content.rstrip(b"\0"))
                continue
            told = _pax(path, content)
            if any(key.startswith(b"GNU.sparse") for key in told):
                raise damaged(path, "it has sparse members, which cannot be read in place")
            name = told.get(b"path", b"").decode("utf8", "surrogateescape") or name
            length = int(told[b"size"]) if told.get(b"size", b"").isdigit() else None
            continue
        if kind == b"S":
            raise damaged(path, "it has sparse members, which cannot be read in place")
        size = size if length is None else length
        own = name or _name(header)
        name, length = "", None
        at = data if kind in _WITHOUT_DATA else data + -(-size // _BLOCK) * _BLOCK
        if kind not in _REGULAR or own.endswith("/"):
            continue
        if data + size > end:
            raise damaged(path, f"it ends before '{own}' does")
        yield TarMember(own, data, size)


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0":  # GNU has other things in the place of the prefix
        prefix = header[345:500].split(b"\0", 1)[0]
        name = prefix + b"/" + name if prefix else name
    return os.fsdecode(name)


def _number(path: Path, text: bytes) -> int:
    if text[0] & 0x80:  # GNU: the rest is the number itself
        return int.from_bytes(bytes([text[0] & 0x7F]) + text[1:], "big")
    try:
        return int(text.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        raise damaged(path, "it cannot be read as a tar file") from None


def _pax(path: Path, content: bytes) -> dict[bytes, bytes]:
    """Return the records "LENGTH KEY=VALUE\\n" of a pax header."""
    told = {}
    while content.strip(b"\0"):
        count, _, _ = content.partition(b" ")
        if not count.isdigit() or not len(count) < int(count) <= len(content):
            raise damaged(path, "a pax header in it cannot be read")
        key, _, value = content[len(count) + 1 : int(count) - 1].partition(b"=")
        told[key] = value
        content = content[int(count) :]
    return told


def read_member(path: Path, member: TarMember) -> bytes:
    """Return the bytes of a member."""
    with open(path, "rb") as file:
        file.seek(member.offset)
        return file.read(member.length)
