"""Shards of a teacher's cache: each holds the rows of some samples, and is made by a process or machine of its own."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from congruence.core import check
from congruence.core.files import read_json, sha256, write_json
from congruence.core.kinds import Kind
from congruence.teacher_cache.encoding import Array
from congruence.teacher_cache.stored_rows import StoredRows

FOLDER, FACTS, VERIFIED = "shards", "shard.json", "verified.json"
STEP = 64  # shards begin at its multiples: whole chunks of the teacher, so that they equal one pass bit for bit
_KIND: Kind = {
    "format": int,
    "identity": {"*": object},
    "shard": int,
    "of": int,
    "first": int,
    "end": int,
    "arrays": {"*": {"file": str, "shape": [int], "stored": int, "*": object}},
    "*": object,
}
_NAME = re.compile(r"(\d+)-of-(\d+)")


@dataclass(frozen=True)
class ShardState:
    """How far one shard is.

    Args:
        number: the shard's number, from 1.
        count: the number of shards.
        stored: rows that are stored, over all views and layers.
        rows: rows that there will be.
        size: bytes of the stored rows.
        rounding: the error of stored rows by layer, empty for float32.
    """

    number: int
    count: int
    stored: int
    rows: int
    size: int
    rounding: Mapping[str, Mapping[str, float]]

    @property
    def complete(self) -> bool:
        """Whether every row is stored."""
        return 0 < self.rows == self.stored


def bounds(number: int, count: int, samples: int) -> tuple[int, int]:
    """Return the first sample of a shard, and the one after its last.

    Raises:
        ValueError: for a number that is not from 1 to `count`, or more shards than steps of 64 samples.

    Example:
        >>> bounds(1, 2, 1000), bounds(2, 2, 1000)
        ((0, 512), (512, 1000))
    """
    steps = -(-samples // STEP)
    whole = all(isinstance(each, int) and not isinstance(each, bool) for each in (number, count))
    if not whole or not 1 <= number <= count:
        check.fail("fill_shard", "shard", "I/N with 1 <= I <= N", f"{number}/{count}")
    if count > steps:
        expected = f"one of at most {steps} shards of {STEP} samples or more, as there are {samples:,} samples"
        check.fail("fill_shard", "shard", expected, f"{number}/{count}")
    return steps * (number - 1) // count * STEP, min(samples, steps * number // count * STEP)


def shards_in(folder: str | Path) -> list[ShardState]:
    """Return the shards in the folder of a cache, in order; reads only their small JSON files.

    Args:
        folder: of the cache, as `TeacherCache` takes it.

    Raises:
        ValueError: for a shard whose file of facts is damaged.

    Example:
        >>> shards_in("no-such-folder")
        []
    """
    states = []
    for each in found(Path(folder)):
        facts = read_facts(each)
        arrays = facts["arrays"].values() if facts else ()
        rows = [array["shape"][0] * array["shape"][1] for array in arrays]
        sizes = [int(np.prod(array["shape"][2:])) * np.dtype(array["dtype"]).itemsize for array in arrays]
        stored = [array["stored"] for array in arrays]
        size = sum(one * row for one, row in zip(sizes, stored, strict=True))
        number, count = numbers(each)
        states.append(ShardState(number, count, sum(stored), sum(rows), size, facts.get("rounding", {})))
    return states


def name_of(number: int, count: int) -> str:
    """Return the name of a shard's folder."""
    return f"{number}-of-{count}"


def numbers(folder: Path) -> tuple[int, int]:
    """Return a shard's number and count from the name of its folder."""
    number, _, count = folder.name.partition("-of-")
    return int(number), int(count)


def found(folder: Path) -> list[Path]:
    """Return the folders of the shards in a cache's folder, in order."""
    inside = folder / FOLDER
    there = [each for each in inside.iterdir() if _NAME.fullmatch(each.name)] if inside.is_dir() else []
    return sorted(there, key=lambda each: numbers(each)[::-1])


def read_facts(shard: Path) -> dict[str, Any]:
    """Return what a shard says of itself; empty if it was only begun.

    Raises:
        ValueError: for a damaged file.
    """
    if not (shard / FACTS).exists():
        return {}
    try:
        return dict(read_json(shard / FACTS, _KIND))
    except ValueError:
        raise _damaged(shard, f"'{FACTS}' cannot be read") from None


def _damaged(shard: Path, why: str) -> ValueError:
    return ValueError(
        f"The shard '{shard}' of a teacher's cache is damaged: {why}. Delete its folder and make it again."
    )


def open_shards(
    folder: Path, identity: Mapping[str, Any], dtype: np.dtype[Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, ShardedRows]:
    """Open the arrays that the shards in a cache's folder hold; the folder is locked.

    Args:
        folder: of the cache.
        identity: everything that determines the content.
        dtype: of the arrays.
        shapes: of the wanted arrays, by name.

    Returns:
        The arrays that the shards hold; others are left out.

    Raises:
        ValueError: for shards of another cache, of two divisions, that are incomplete or damaged.
    """
    folders = found(folder)
    facts = {each: read_facts(each) for each in folders}
    begun = {key for of_shard in facts.values() for key in of_shard.get("arrays", {}) if key in shapes}
    if not begun:
        return {}
    _division(folder, folders)
    for each, of_shard in facts.items():
        if of_shard and of_shard["identity"] != identity:
            raise ValueError(
                f"The shard '{each}' was made of something else ({check.difference(of_shard['identity'], identity)}): "
                "delete it, or choose another folder."
            )
    _refuse(folder, facts, lambda of_shard: all(map(_complete(of_shard), begun)))
    _verify(folder, facts)
    arrays = {}
    for key in begun:
        parts = []
        for each, of_shard in facts.items():
            array = of_shard["arrays"][key]
            shape = (shapes[key][0], of_shard["end"] - of_shard["first"], *shapes[key][2:])
            parts.append(StoredRows(each / array["file"], shape, dtype, None))
        arrays[key] = ShardedRows(parts)
    return arrays


def _division(folder: Path, folders: Sequence[Path]) -> int:
    """Return the number of shards, which is the same for all."""
    counts = sorted({numbers(each)[1] for each in folders})
    if len(counts) > 1:
        names = ", ".join(f"'{next(each.name for each in folders if numbers(each)[1] == count)}'" for count in counts)
        raise ValueError(
            f"The teacher's cache '{folder}' holds shards of several divisions ({names}): delete those of all but one."
        )
    return counts[0]


def refuse_missing(folder: Path) -> None:
    """Refuse a cache of which some shards are there and others hold no complete array; reads no row.

    A run asks this of all its stages before it trains the first; what a stage needs is checked where it opens them.

    Raises:
        ValueError: with the numbers of the shards, or for shards of two divisions.
    """
    facts = {each: read_facts(each) for each in found(folder)}
    if facts:
        _refuse(folder, facts, lambda of_shard: any(map(_complete(of_shard), of_shard.get("arrays", {}))))


def _refuse(folder: Path, facts: Mapping[Path, Mapping[str, Any]], holds: Callable[[Mapping[str, Any]], bool]) -> None:
    """Raise with the numbers of the shards that do not hold what they should, or are absent."""
    count = _division(folder, list(facts))
    names = {number: folder / FOLDER / name_of(number, count) for number in range(1, count + 1)}
    wanting = [f"{number}/{count}" for number, name in names.items() if not holds(facts.get(name, {}))]
    if wanting:
        raise ValueError(
            f"The teacher's cache '{folder}' lacks the shards {', '.join(wanting)}: make them (`congruence cache "
            f"CONFIG --shard {wanting[0]}`), or delete '{folder / FOLDER}' and let the run store what it needs."
        )


def _complete(facts: Mapping[str, Any]) -> Callable[[str], bool]:
    """Return whether a shard holds every row of an array, as a function of the array's name."""
    arrays = facts.get("arrays", {})
    return lambda key: key in arrays and arrays[key].get("sha256") is not None


def _verify(folder: Path, facts: Mapping[Path, Mapping[str, Any]]) -> None:
    """Compare the checksums of files that are new here or have changed since they were compared.

    Raises:
        ValueError: for a file that is absent or damaged.
    """
    noted = folder / FOLDER / VERIFIED
    try:
        before = read_json(noted, {"*": [object]})
    except ValueError:
        before = {}
    now = {}
    for shard, of_shard in facts.items():
        for array in of_shard["arrays"].values():
            if array.get("sha256") is None:
                continue
            path, name = shard / array["file"], f"{shard.name}/{array['file']}"
            try:
                status = os.stat(path)
                now[name] = [status.st_size, status.st_mtime_ns, array["sha256"]]
                same = before.get(name) == now[name] or sha256(path) == array["sha256"]
            except OSError as error:
                raise _damaged(shard, f"'{array['file']}' cannot be read ({error.strerror})") from None
            if not same:
                raise _damaged(shard, f"'{array['file']}' is not what its checksum says")
    if now != before:
        with contextlib.suppress(OSError):  # a folder that may only be read: compared again each time
            write_json(noted, now)


class ShardedRows:
    """An array [V, N, ...] of a cache over several files, each with the rows of consecutive samples; only read."""

    complete, lost, marks = True, False, None

    def __init__(self, parts: Sequence[StoredRows]) -> None:
        self._parts = parts
        self._ends = np.cumsum([part.shape[1] for part in parts])

    def missing(self, number: int, rows: Array | slice = slice(None)) -> Array:
        """Return which of the given rows are not stored: none."""
        return np.zeros(int(self._ends[-1]), bool)[rows]

    def read(self, number: int, rows: Array) -> Array:
        """Return rows of a view."""
        which = np.searchsorted(self._ends, rows, side="right")
        first = self._parts[0]
        values = np.empty((len(rows), *first.shape[2:]), first.dtype)
        for part in np.unique(which).tolist():
            at = which == part
            start = int(self._ends[part - 1]) if part else 0
            values[at] = self._parts[part].read(number, np.asarray(rows)[at] - start)
        return values

    def write(self, number: int, rows: Array, values: Array) -> None:
        """Store nothing: every row is there."""

    def flush(self) -> None:
        """Do nothing: nothing is written."""

    def there(self) -> bool:
        """Whether rows could be written."""
        return False
