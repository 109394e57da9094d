"""One array of a teacher's cache in its file, and which of its rows are stored."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from congruence.core.files import read_array

Array = npt.NDArray[Any]
LOG = logging.getLogger("congruence")


class StoredRows:
    """An array [V, N, ...] in a file:

    read through a memory map, written only at the positions of its rows. Writing through a map would write whole pages,
    and could overwrite rows that another process stored there.

    Args:
        path: path of the file.
        shape: [V, N, ...].
        dtype: dtype of the numbers.
        marks: bool [V, N], which rows are stored; None if all are.

    Raises:
        ValueError: for a file with other content.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], marks: Array | None) -> None:
        self.path, self.marks, self.dirty, self.lost = path, marks, False, False
        where = f"The teacher's cache '{path.parent}' is damaged: '{path.name}'"
        try:
            mapped = read_array(path, mapped=True)
            self._file = os.stat(path)
        except (OSError, ValueError):
            raise ValueError(f"{where} cannot be read.") from None
        if mapped.shape != shape or mapped.dtype != dtype:
            got = f"{mapped.dtype} {list(mapped.shape)}, expected {dtype} {list(shape)}"
            raise ValueError(f"{where} holds {got}.")
        self._start = getattr(mapped, "offset", 0)
        self._array = np.asarray(mapped)

    @property
    def shape(self) -> tuple[int, ...]:
        """[V, N, ...]."""
        return self._array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stored numbers."""
        return self._array.dtype

    @property
    def complete(self) -> bool:
        """Whether all rows are stored and published."""
        return self.marks is None

    def missing(self, number: int, rows: Array | slice = slice(None)) -> Array:
        """Return which of the given rows of a view are not stored."""
        return np.zeros(self._array.shape[1], bool)[rows] if self.marks is None else ~self.marks[number][rows]

    def read(self, number: int, rows: Array) -> Array:
        """Return rows of a view; rows that are not stored have arbitrary values."""
        return np.asarray(self._array[number][rows])

    def write(self, number: int, rows: Array, values: Array) -> None:
        """Store rows of a view; if the file was removed or replaced, nothing is stored from then on."""
        if self.marks is None or not len(rows) or not self.there():
            return
        order = np.argsort(rows)
        rows, values = rows[order], np.ascontiguousarray(values[order])
        count, size = self._array.shape[1], values[0].nbytes
        ends = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        try:
            with _held(self.path) as file:
                for first, last in itertools.pairwise(ends):
                    file.seek(self._start + (number * count + int(rows[first])) * size)
                    _write_all(file, values[first:last].data.cast("B"))
        except OSError as error:
            raise not_written(self.path.parent, error) from None
        self.marks[number, rows] = self.dirty = True

    def learn(self, marks: Array) -> None:
        """Mark the rows that other processes published as stored."""
        if self.marks is not None and (marks & ~self.marks).any() and self.there():
            # from here on, rows written by other machines are read again
            with contextlib.suppress(OSError), _held(self.path):
                self.marks |= marks

    def flush(self) -> None:
        """Flush written rows to the disk: a mark must never exist without its row."""
        if self.dirty and self.there():
            try:
                with _held(self.path) as file:
                    os.fsync(file.fileno())
            except OSError as error:
                raise not_written(self.path.parent, error) from None
            self.dirty = False

    def lose(self) -> None:
        """Stop storing rows, with a warning."""
        if not self.lost:
            self.lost = True
            LOG.warning(
                "'%s' was removed or replaced while this run filled it: missing rows are computed, but not stored.",
                self.path,
            )

    def there(self) -> bool:
        """Whether the file is still the one that was opened, not another in its place."""
        try:
            same = not self.lost and os.path.samestat(os.stat(self.path), self._file)
        except FileNotFoundError:
            same = False
        if not same:
            self.lose()
        return same


def not_written(folder: Path, error: OSError) -> ValueError:
    """Return the error for a cache that cannot be written to the disk."""
    return ValueError(f"The teacher's cache '{folder}' could not be written: {error.strerror or error}.")


@contextlib.contextmanager
def _held(path: Path) -> Iterator[FileIO]:
    """Open a file for writing, and lock it for the block.

    On a network file system, the lock makes the locked part be read again and written back at the end; without it, two
    machines would overwrite each other's rows with whole pages.
    """
    with FileIO(path, "r+b") as file:
        with contextlib.suppress(ImportError):  # of this a warning has been given, see `core.files.locked`
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _write_all(file: FileIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]
