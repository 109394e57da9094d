"""The files of a teacher's cache: one array for each view and layer, marks of its stored rows, and a manifest."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from congruence.core import check
from congruence.core.files import atomic, locked, read_array, read_json, writable, write_json
from congruence.core.kinds import Kind
from congruence.data.datasets.files import FileDataset
from congruence.teacher_cache.shards import bounds, found, numbers, open_shards
from congruence.teacher_cache.shown import FileStamps, adopt
from congruence.teacher_cache.stored_rows import StoredRows, not_written

MANIFEST = "manifest.json"
_MANIFEST: Kind = {"identity": {"*": object}, "arrays": {"*": str}, "partial?": {"*": str}, "*": object}
Key = tuple[str, str]  # (view, path of the layer)


class Rows(Protocol):
    """One array of a cache, or a shard's part of it; `StoredRows` says what each does."""

    lost: bool

    @property
    def complete(self) -> bool:
        """Whether all rows are stored."""

    def missing(self, number: int, rows: npt.NDArray[Any] | slice = slice(None)) -> npt.NDArray[Any]:
        """Return which rows of a view are not stored."""

    def read(self, number: int, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return rows of a view."""

    def write(self, number: int, rows: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        """Store rows of a view."""

    def flush(self) -> None:
        """Flush written rows to the disk."""


class Stamps(Protocol):
    """The stamps of image files that are read on demand, see `FileStamps`."""

    def take(self, samples: npt.NDArray[Any]) -> None:
        """Record the stamps of samples that are being stored."""

    def flush(self) -> None:
        """Write the stamps to the disk."""


class Files(Protocol):
    """The files of a cache, or of one of its shards."""

    def open(self, shapes: Mapping[Key, tuple[int, ...]]) -> Mapping[Key, Rows]:
        """Return the arrays of the requested layers."""

    def stamps(self, dataset: FileDataset) -> Stamps:
        """Return the stamps of a dataset's image files."""

    def locked(self) -> AbstractContextManager[None]:
        """Lock the files."""

    def share(self, arrays: Mapping[Key, Rows], *, held: bool = False) -> None:
        """Publish newly stored rows."""

    def size(self, shapes: Mapping[Key, tuple[int, ...]]) -> int:
        """Return the size of arrays in bytes."""


_YOUNGER = {"teacher_structure"}  # key of the identity that older manifests lack; they are accepted without it
_SPARE = 2**24  # bytes that are left free on the disk


class CacheFiles:
    """A folder of arrays [V, N, ...], and a manifest that says how they were made.

    An array is created empty, and can be filled by several processes at once. Each process knows what it stored;
    `share` publishes this (first the rows, then the marks), and reads what others published. What a killed process has
    not published is lost. The manifest lists incomplete arrays separately, where older versions, which only knew
    complete arrays, do not look.

    Args:
        folder: the folder of this cache, not shared with others.
        identity: everything that determines the arrays' content, as plain values.
        dtype: dtype of the arrays.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], dtype: str) -> None:
        self.folder, self.identity, self.dtype = folder, dict(identity), np.dtype(dtype)

    def open(self, shapes: Mapping[Key, tuple[int, ...]]) -> dict[Key, Rows]:
        """Return the arrays of the requested layers, whole or from shards; missing ones are created without rows.


        Raises:
            ValueError: for a folder that holds another cache or a damaged one, or a disk that is too small.
        """
        writable(self.folder)
        with self.locked():
            whole, partial = self._names()
            wanted = {text_of(key): shape for key, shape in shapes.items() if text_of(key) not in whole}
            sharded = open_shards(self.folder, self.identity, self.dtype, wanted)
            new = {key: shape for key, shape in shapes.items() if text_of(key) not in {*whole, *partial, *sharded}}
            if new:
                self._room(new)
                for number, (key, shape) in enumerate(new.items(), len(whole) + len(partial)):
                    partial[text_of(key)] = name = f"{number:03}.npy"
                    self._lay_out(name, shape)
                self._write_names(whole, partial)
            return {
                key: sharded.get(text) or self._opened(whole, partial, text, shape)
                for key, shape in shapes.items()
                for text in (text_of(key),)
            }

    def stamps(self, dataset: FileDataset) -> FileStamps:
        """Return the stamps of image files, with those that shards brought."""
        with self.locked():
            brought = {numbers(each): each for each in found(self.folder)}
            starts = {each: bounds(*pair, len(dataset))[0] for pair, each in brought.items()}
            adopt(self.folder, starts, len(dataset))
            return FileStamps(self.folder, dataset)

    def locked(self) -> AbstractContextManager[None]:
        """Lock the folder: other processes that open it, or share rows, wait."""
        return locked(self.folder / ".lock")

    def share(self, arrays: Mapping[Key, Rows], *, held: bool = False) -> None:
        """Publish newly stored rows, and read which rows other processes published.


        Args:
            arrays: the result of `open`.
            held: whether the folder is already `locked`.
        """
        for rows in arrays.values():
            rows.flush()
        ours = {
            text_of(key): rows for key, rows in arrays.items() if isinstance(rows, StoredRows) and not rows.complete
        }
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
        """Return the files of existing arrays, complete and incomplete; remove what a killed process left."""
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
            return {}, {}  # another cache without rows, for example one whose first outputs exceeded float16
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
        check_room(self.folder, self.size(shapes))

    def size(self, shapes: Mapping[Key, tuple[int, ...]]) -> int:
        """Return the size of the arrays in bytes."""
        return sum(int(np.prod(shape)) * self.dtype.itemsize for shape in shapes.values())

    def _lay_out(self, name: str, shape: tuple[int, ...]) -> None:
        """Create an array's file, sparse but with its full size, and the marks of its rows."""
        self._write_marks(name, np.zeros(shape[:2], bool))
        with self._told():
            write_empty(self.folder / name, shape, self.dtype)

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


def check_room(folder: Path, needed: int) -> None:
    """Raise a ValueError if a disk has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free - _SPARE:
        raise ValueError(
            f"The teacher's cache in '{folder}' needs {megabytes(needed)}, but the disk has {megabytes(free)} free: "
            "store fewer views or smaller layers."
        )


def _way(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return advice for a cache that differs only in the teacher's arithmetic."""
    if {**before, "arithmetic": ""} != {**now, "arithmetic": ""}:
        return ""
    if not before.get("arithmetic"):
        return "run it with teacher_speed='exact' (in a custom loop: without `teacher.prepare()`), "
    return "run it as it was filled (in a custom loop: after `teacher.prepare()`), "


def text_of(key: Key) -> str:
    """Return the name of an array in a manifest."""
    return f"{key[0]}:{key[1]}"


def write_empty(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Create a NumPy file with its full size, sparse where the file system can."""
    with atomic(path) as file:
        described = np.lib.format.dtype_to_descr(dtype)
        np.lib.format.write_array_header_1_0(file, {"descr": described, "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + int(np.prod(shape)) * dtype.itemsize)


def megabytes(size: int) -> str:
    """Format a number of bytes.

    Example:
        >>> megabytes(2_500_000)
        '2.5 MB'
    """
    return f"{size / 1e6:,.1f} MB"
