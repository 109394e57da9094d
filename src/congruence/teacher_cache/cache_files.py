"""The files of a teacher's cache: one array a view and layer, beside it which of its rows are there, and a manifest."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from congruence.core import check
from congruence.core.files import atomic, locked, read_array, read_json, writable, write_json
from congruence.core.kinds import Kind
from congruence.teacher_cache.stored_rows import StoredRows, not_written

MANIFEST = "manifest.json"
_MANIFEST: Kind = {"identity": {"*": object}, "arrays": {"*": str}, "partial?": {"*": str}, "*": object}
Key = tuple[str, str]  # (view, path of the layer)
_YOUNGER = {"teacher_structure"}  # of the identity: older manifests do not say it, and are taken at their word
_SPARE = 2**24  # bytes that a disk keeps free


class CacheFiles:
    """A folder of arrays [V, N, ...], and a manifest that says of what they were made.

    An array is laid out empty, and filled by as many processes as like to at once. Each knows what it stored itself;
    `share` publishes that (the rows first, then the marks), and learns what others did. A process that is killed takes
    with it what it has not published. The manifest names arrays that lack rows apart, where versions that knew whole
    ones alone do not look.

    Args:
        folder: of this cache alone.
        identity: what decides the arrays' content, as plain values.
        dtype: of the arrays.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], dtype: str) -> None:
        self.folder, self.identity, self.dtype = folder, dict(identity), np.dtype(dtype)

    def open(self, shapes: Mapping[Key, tuple[int, ...]]) -> dict[Key, StoredRows]:
        """Return the arrays of the layers asked for; those that are not there are laid out, without a row.

        Raises:
            ValueError: in one sentence, for a folder that holds another cache, a damaged one, or a disk too small.
        """
        writable(self.folder)
        with self.locked():
            whole, partial = self._names()
            new = {key: shape for key, shape in shapes.items() if _text(key) not in whole | partial}
            if new:
                self._room(new)
                for number, (key, shape) in enumerate(new.items(), len(whole) + len(partial)):
                    partial[_text(key)] = name = f"{number:03}.npy"
                    self._lay_out(name, shape)
                self._write_names(whole, partial)
            return {key: self._opened(whole, partial, _text(key), shape) for key, shape in shapes.items()}

    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder: other processes that open it, or share what they stored, wait."""
        return locked(self.folder / ".lock")

    def share(self, arrays: Mapping[Key, StoredRows], *, held: bool = False) -> None:
        """Publish the rows that were stored since, and learn of those that other processes published.

        Args:
            arrays: of `open`.
            held: whether the folder is `locked` already.
        """
        for rows in arrays.values():
            rows.flush()
        ours = {_text(key): rows for key, rows in arrays.items() if not rows.complete}
        if not any(rows.there() for rows in ours.values()):
            return
        with contextlib.nullcontext() if held else self.locked():
            whole, partial = self._names()
            done: dict[str, str] = {}
            for text, rows in ours.items():
                marks = rows.marks
                if marks is None or not rows.there():
                    continue
                if text in whole:
                    rows.learn(np.ones_like(marks))
                elif text in partial:
                    there = self._marks(partial[text], marks.shape)
                    rows.learn(there)
                    if marks.all():
                        done[text] = partial.pop(text)
                    elif (marks & ~there).any():
                        self._write_marks(partial[text], marks)
                else:
                    rows.lose()
            if done:
                self._write_names(whole | done, partial)
            for name in done.values():
                self._marks_of(name).unlink(missing_ok=True)
            for text, rows in ours.items():
                if text in whole | done and rows.marks is not None and rows.marks.all() and not rows.lost:
                    rows.marks = None

    def _names(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the files of the arrays that are there, whole ones and others; remove what a killed process left."""
        for left in self.folder.glob(".*.tmp"):
            left.unlink()
        path = self.folder / MANIFEST
        if not path.exists():
            return {}, {}
        try:
            manifest = read_json(path, _MANIFEST)
        except ValueError:
            raise ValueError(f"The teacher's cache '{self.folder}' is damaged: '{MANIFEST}' cannot be read.") from None
        identity, whole, partial = manifest["identity"], manifest["arrays"], manifest.get("partial", {})
        identity |= {key: self.identity[key] for key in _YOUNGER & self.identity.keys() if key not in identity}
        if identity == self.identity:
            return whole, partial
        if not whole and partial and not any(self._marks(name).any() for name in partial.values()):
            return {}, {}  # another's, without a row: as of one whose first answers float16 could not hold
        raise ValueError(
            f"The teacher's cache '{self.folder}' was made of something else "
            f"({check.difference(identity, self.identity)}): {_way(identity, self.identity)}"
            "delete it, or choose another folder."
        )

    def _write_names(self, whole: Mapping[str, str], partial: Mapping[str, str]) -> None:
        manifest = {"identity": self.identity, "arrays": whole} | ({"partial": partial} if partial else {})
        with self._told():
            write_json(self.folder / MANIFEST, manifest)

    def _room(self, shapes: Mapping[Key, tuple[int, ...]]) -> None:
        needed, free = self.size(shapes), shutil.disk_usage(self.folder).free
        if needed > free - _SPARE:
            raise ValueError(
                f"The teacher's cache in '{self.folder}' needs {megabytes(needed)}, but the disk has "
                f"{megabytes(free)} free: store fewer views or smaller layers."
            )

    def size(self, shapes: Mapping[Key, tuple[int, ...]]) -> int:
        """Return how many bytes the arrays need."""
        return sum(int(np.prod(shape)) * self.dtype.itemsize for shape in shapes.values())

    def _lay_out(self, name: str, shape: tuple[int, ...]) -> None:
        """Make an array's file, of its whole size though the disk holds what is written alone, and its rows' marks."""
        self._write_marks(name, np.zeros(shape[:2], bool))
        with self._told(), atomic(self.folder / name) as file:
            _header(file, shape, self.dtype)
            file.truncate(file.tell() + int(np.prod(shape)) * self.dtype.itemsize)

    def _opened(
        self, whole: Mapping[str, str], partial: Mapping[str, str], text: str, shape: tuple[int, ...]
    ) -> StoredRows:
        if text in whole:
            return StoredRows(self.folder / whole[text], shape, self.dtype, None)
        return StoredRows(self.folder / partial[text], shape, self.dtype, self._marks(partial[text], shape[:2]))

    def _marks_of(self, name: str) -> Path:
        return self.folder / f"{name.removesuffix('.npy')}.rows"

    def _marks(self, name: str, shape: tuple[int, ...] | None = None) -> npt.NDArray[Any]:
        path = self._marks_of(name)
        try:
            marks = read_array(path)
        except (OSError, ValueError):
            marks = None
        if marks is None or marks.dtype != bool or shape not in (None, marks.shape):
            raise ValueError(f"The teacher's cache '{self.folder}' is damaged: '{path.name}' cannot be read.")
        return np.asarray(marks)

    def _write_marks(self, name: str, marks: npt.NDArray[Any]) -> None:
        with self._told(), atomic(self._marks_of(name)) as file:
            np.save(file, marks)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise not_written(self.folder, error) from None


def _way(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return a way to read a cache that differs in the teacher's arithmetic alone."""
    if {**before, "arithmetic": ""} != {**now, "arithmetic": ""}:
        return ""
    if not before.get("arithmetic"):
        return "run it with teacher_speed='exact' (in a loop of one's own: without `teacher.prepare()`), "
    return "run it as it was filled (in a loop of one's own: after `teacher.prepare()`), "


def _text(key: Key) -> str:
    return f"{key[0]}:{key[1]}"


def _header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    described = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": described, "fortran_order": False, "shape": shape})


def megabytes(size: int) -> str:
    """Write a number of bytes.

    Example:
        >>> megabytes(2_500_000)
        '2.5 MB'
    """
    return f"{size / 1e6:,.1f} MB"
