"""Image files inside other files: members of tar shards, and rows of Parquet files, each read by its number."""

from __future__ import annotations

import io
import os
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from congruence.core.files import absent, damaged

Array = npt.NDArray[Any]
GROUPS = 4  # row groups of Parquet that stay in memory
BYTES = 2**28  # or as many as have so many bytes


class Names(Sequence[str]):
    """Many names in one array of bytes: about a third of what a tuple of strings takes.

    Example:
        >>> names = Names.of(["a.png", "b/c.png"])
        >>> len(names), names[1], list(names[:1])
        (2, 'b/c.png', ['a.png'])
    """

    def __init__(self, text: Array, ends: Array) -> None:
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, names: Sequence[str]) -> Names:
        """Return the names."""
        encoded = [os.fsencode(name) for name in names]
        text = np.frombuffer(b"".join(encoded), np.uint8)
        return cls(text, np.cumsum([len(each) for each in encoded], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[str]: ...
    def __getitem__(self, row: int | slice) -> str | Sequence[str]:
        if isinstance(row, slice):
            return tuple(self[each] for each in range(*row.indices(len(self))))
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        start = int(self.ends[row - 1]) if row else 0
        return os.fsdecode(self.text[start : int(self.ends[row])].tobytes())


class Held(NamedTuple):
    """An image that has no file of its own: a name for messages, and a function that reads its bytes."""

    path: Path
    read: Callable[[], bytes]

    def opened(self) -> io.BytesIO:
        """Return its bytes as a file."""
        return io.BytesIO(self.read())


class Packed(Sequence[str]):
    """The names of image files inside other files; each can be read by its number, in any order."""

    root: Path
    names: Sequence[str]
    shards: Sequence[str]  # the outer files, below the root
    shard: Array  # the number of each image's outer file [N]

    @abstractmethod
    def read(self, row: int) -> bytes:
        """Return an image's encoded bytes."""

    def sizes(self, rows: Array) -> npt.NDArray[np.int64]:
        """Return a number for each image that changes with its content, as the length of a file does."""
        return np.array([each.st_size for each in self._statuses()], np.int64)[self.shard[rows]]

    def changed_at(self, rows: Array) -> npt.NDArray[np.int64]:
        """Return when the outer file of each image last changed, in nanoseconds."""
        times = [max(each.st_mtime_ns, each.st_ctime_ns) for each in self._statuses()]
        return np.array(times, np.int64)[self.shard[rows]]

    def _statuses(self) -> list[os.stat_result]:
        statuses = []
        for name in self.shards:
            try:
                statuses.append(os.stat(self.root / name))
            except OSError:
                raise absent(self.root / name) from None
        return statuses

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[str]: ...
    def __getitem__(self, row: int | slice) -> str | Sequence[str]:
        return self.names[row]


@dataclass(eq=False, repr=False)
class TarFiles(Packed):
    """Members of uncompressed tar files, read at the offsets that were found once.

    Args:
        root: the folder of the shards.
        shards: the tar files below it.
        names: "SHARD/MEMBER" of each image.
        shard: the number of each image's shard [N].
        offset: where its bytes begin [N].
        length: how many they are [N].
    """

    root: Path
    shards: Sequence[str]
    names: Sequence[str]
    shard: Array
    offset: Array
    length: Array
    _open: dict[int, int] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": {}}  # file descriptors are this process's own

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def sizes(self, rows: Array) -> npt.NDArray[np.int64]:
        """Return the length of each image's bytes."""
        return np.asarray(self.length[rows], np.int64)

    def read(self, row: int) -> bytes:
        """Return an image's bytes.

        Raises:
            ValueError: for a shard that is absent or cut short.
        """
        number, path = int(self.shard[row]), self.root / self.shards[self.shard[row]]
        try:
            if number not in self._open:
                self._open[number] = os.open(path, os.O_RDONLY)
            content = os.pread(self._open[number], int(self.length[row]), int(self.offset[row]))
        except FileNotFoundError:
            raise absent(path) from None
        except OSError as error:
            raise damaged(path, f"it cannot be read ({error.strerror})") from None
        if len(content) < self.length[row]:
            raise damaged(path, f"it ends before '{self.names[row]}' does")
        return content

    def __del__(self) -> None:
        for descriptor in getattr(self, "_open", {}).values():
            os.close(descriptor)


@dataclass(eq=False, repr=False)
class ParquetFiles(Packed):
    """Rows of a column of images in Parquet files; the last few row groups that were read stay in memory.

    Args:
        root: the folder of the files.
        shards: the Parquet files below it.
        names: "FILE/ROW" of each image.
        shard: the number of each image's file [N].
        group: the number of its row group [N].
        position: its row in the group [N].
        column: the column of the images, whose values are bytes, or a struct with "bytes".
    """

    root: Path
    shards: Sequence[str]
    names: Sequence[str]
    shard: Array
    group: Array
    position: Array
    column: str
    _groups: OrderedDict[tuple[int, int], Any] = field(default_factory=OrderedDict)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_groups": OrderedDict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def read(self, row: int) -> bytes:
        """Return an image's bytes.

        Raises:
            ValueError: for a file that is absent or damaged, or an image without bytes.
        """
        key = int(self.shard[row]), int(self.group[row])
        if key not in self._groups:
            self._groups[key] = self._read_group(*key)
            while len(self._groups) > GROUPS and sum(each.nbytes for each in self._groups.values()) > BYTES:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        value = self._groups[key][int(self.position[row])].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise ValueError(f"The image '{self.root / self.names[row]}' has no bytes in the column '{self.column}'.")
        return content

    def fits(self) -> bool:
        """Whether all row groups may stay in memory."""
        return sum(os.stat(self.root / name).st_size for name in self.shards) <= BYTES

    def _read_group(self, shard: int, group: int) -> Any:
        parquet, path = pyarrow_parquet(), self.root / self.shards[shard]
        try:
            with parquet.ParquetFile(path) as file:
                return file.read_row_group(group, columns=[self.column]).column(self.column)
        except FileNotFoundError:
            raise absent(path) from None
        except Exception as error:  # pyarrow's own kinds
            raise damaged(path, f"its row group {group} cannot be read ({str(error).splitlines()[0][:100]})") from None


def pyarrow_parquet() -> Any:
    """Return `pyarrow.parquet`.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError("Parquet files need pyarrow: pip install 'congruence[parquet]'.") from None
    return pyarrow.parquet


def place(root: Path, files: Sequence[str], row: int) -> Path | Held:
    """Return where an image is: a path, or what reads it from inside another file."""
    if isinstance(files, Packed):
        return Held(root / files[row], lambda: files.read(row))
    return root / files[row]
