"""The files of a teacher's cache: one array a view and layer, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from congruence.core import check
from congruence.core.files import atomic, locked, writable, write_json

MANIFEST = "manifest.json"
Key = tuple[str, str]  # (view, path of the layer)
Blocks = Iterator[Mapping[Key, npt.NDArray[Any]]]
_YOUNGER = {"teacher_structure"}  # of the identity: older manifests do not say it, and are taken at their word
_SPARE = 2**24  # bytes that a disk keeps free


class CacheFiles:
    """A folder of arrays [V, N, ...], and a manifest that says of what they were made.

    Args:
        folder: of this cache alone.
        identity: what decides the arrays' content, as plain values.
        dtype: of the arrays.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], dtype: str) -> None:
        self.folder, self.identity, self.dtype = folder, dict(identity), np.dtype(dtype)

    def open(self, shapes: Mapping[Key, tuple[int, ...]], make: Callable[[set[Key]], Blocks]) -> dict[Key, Any]:
        """Return the arrays of the layers asked for, memory-mapped; those that are not there are made first.

        Another process that builds the same cache is waited for.

        Args:
            shapes: of each array, [V, N, ...].
            make: called with the keys that are missing; yields their blocks of rows in order.

        Raises:
            ValueError: in one sentence, for a folder that holds another cache, a damaged one, or a disk too small.
        """
        writable(self.folder)
        with locked(self.folder / ".lock"):
            names = self._names()
            missing = {key: shape for key, shape in shapes.items() if _text(key) not in names}
            if missing:
                self._room(missing)
                names |= self._write(missing, make(set(missing)), start=len(names))
                write_json(self.folder / MANIFEST, {"identity": self.identity, "arrays": names})
        return {key: self._mapped(names[_text(key)], shape) for key, shape in shapes.items()}

    def _names(self) -> dict[str, str]:
        """Return the files of the arrays that are there; remove what a killed builder left."""
        for left in self.folder.glob(".*.tmp"):
            left.unlink()
        path = self.folder / MANIFEST
        if not path.exists():
            return {}
        try:
            manifest = json.loads(path.read_text(encoding="utf8"))
            identity, names = dict(manifest["identity"]), dict(manifest["arrays"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(f"The teacher's cache '{self.folder}' is damaged: '{MANIFEST}' cannot be read.") from None
        identity |= {key: self.identity[key] for key in _YOUNGER & self.identity.keys() if key not in identity}
        if identity != self.identity:
            raise ValueError(
                f"The teacher's cache '{self.folder}' was made of something else "
                f"({check.difference(identity, self.identity)}): delete it, or choose another folder."
            )
        return names

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

    def _write(self, shapes: Mapping[Key, tuple[int, ...]], blocks: Blocks, start: int) -> dict[str, str]:
        names = {key: f"{start + number:03}.npy" for number, key in enumerate(shapes)}
        try:
            with contextlib.ExitStack() as stack:
                files = {key: stack.enter_context(atomic(self.folder / name)) for key, name in names.items()}
                for key, file in files.items():
                    _header(file, shapes[key], self.dtype)
                for block in blocks:
                    for key, rows in block.items():
                        files[key].write(self._stored(key, rows).data)
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(f"The teacher's cache '{self.folder}' could not be written: {reason}.") from None
        return {_text(key): name for key, name in names.items()}

    def _stored(self, key: Key, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(rows.astype(self.dtype))
        if np.isinf(stored).any() and np.isfinite(rows).all():
            raise ValueError(
                f"The teacher's layer '{key[1]}' reaches {np.abs(rows).max():.6g}, which {self.dtype} cannot hold: "
                f"cache it with dtype='float32'."
            )
        return stored

    def _mapped(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        path = self.folder / name
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise ValueError(f"The teacher's cache '{self.folder}' is damaged: '{name}' cannot be read.") from None
        if array.shape != shape or array.dtype != self.dtype:
            got = f"{array.dtype} {list(array.shape)}, expected {self.dtype} {list(shape)}"
            raise ValueError(f"The teacher's cache '{self.folder}' is damaged: '{name}' holds {got}.")
        return np.asarray(array)


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
