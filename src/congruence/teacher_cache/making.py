"""Making one shard of a teacher's cache: resumable, by any process that has the models and the images."""

from __future__ import annotations

import contextlib
import copy
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from congruence.core import check, rng
from congruence.core.files import locked, sha256, writable, write_json
from congruence.data.datasets.files import FileDataset
from congruence.distiller.distiller import Distiller
from congruence.teacher_cache.cache import TeacherCache
from congruence.teacher_cache.cache_files import Key, check_room, text_of, write_empty
from congruence.teacher_cache.encoding import Array, Rounding
from congruence.teacher_cache.shards import FACTS, FOLDER, ShardState, bounds, name_of, read_facts, shards_in
from congruence.teacher_cache.shown import FileStamps
from congruence.teacher_cache.stored_rows import StoredRows, not_written

Report = Callable[[str, ShardState], None]
_SAVE_SECONDS = 30.0  # a killed process loses at most what it stored in so many seconds


def fill_shard(
    distiller: Distiller, shard: tuple[int, int] = (1, 1), *, report: Report | None = None
) -> dict[str, ShardState]:
    """Store the teachers' outputs for one part of the training samples, in files of its own.

    N calls, in any processes or machines and any order, each with its own `shard=(I, N)`, make the whole cache; copy
    the folders `shards/I-of-N` into one cache's folder if the machines share none. A run with the same `TeacherCache`
    then reads them through memory maps and runs the teacher on no training sample. A call that was killed goes on where
    it last saved (every 30 s); one for a shard that is complete does nothing. The rows are bit for bit those that a
    run, or a single pass, stores on the same kind of machine. Each file has a SHA-256, which is compared when a run
    first opens it.

    Args:
        distiller: with a `TeacherCache` for each teacher whose outputs are to be stored. Its terms say which layers.
        shard: (I, N), from (1, N) to (N, N): a part of the samples, in steps of 64.
        report: called with the teacher's name and the state when something was saved.

    Returns:
        The state of each teacher's shard, by the teacher's name.

    Raises:
        ValueError: if there is no `TeacherCache`, the shard is none of I/N, its folder belongs to another cache or
            process, or the disk is too small.

    Example:
        >>> import tempfile, torch
        >>> from congruence import Distiller, TeacherCache, data
        >>> images = torch.arange(128 * 4).view(128, 1, 2, 2).to(torch.uint8)
        >>> dataset = data.ArrayDataset(images, torch.arange(128) % 2, classes=2, mean=[0.5], std=[0.5])
        >>> teacher, student = (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)) for _ in range(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = TeacherCache(teacher, data.loader(dataset, batch_size=4), folder, dtype="float32")
        ...     distiller = Distiller(cache, student, ["kd"], example=dataset.batch([0, 1]))
        ...     first, second = (fill_shard(distiller, (number, 2))["teacher"] for number in (1, 2))
        ...     cache.open(distiller.taught_by("teacher"))
        >>> second.complete, second.stored, cache.complete
        (True, 64, True)
    """
    caches = {name: each for name, each in distiller.caches.items() if isinstance(each, TeacherCache)}
    if not caches:
        check.fail("fill_shard", "distiller", "one with a TeacherCache as its teacher", "none")
    number, count = shard
    return {
        name: _Making(cache, distiller, name, number, count).run(
            None if report is None else functools.partial(report, name)
        )
        for name, cache in caches.items()
    }


class _Making:
    """The filling of one shard by a copy of a cache that opens the shard's files instead of the cache's."""

    def __init__(self, cache: TeacherCache, distiller: Distiller, name: str, number: int, count: int) -> None:
        self.cache = copy.copy(cache)
        self.cache.roundings, self.cache.filling = {}, None
        self.bindings = list(distiller.taught_by(name))
        self.first, self.end = bounds(number, count, len(cache.loader.dataset))
        self.number, self.count = number, count

    def run(self, report: Callable[[ShardState], None] | None) -> ShardState:
        cache = self.cache
        cache._arithmetic = cache.teacher.arithmetic
        files = ShardFiles(cache, self.number, self.count, (self.first, self.end))
        writable(files.folder)
        with files.alone():
            cache._open(cache._keys(self.bindings), files)
            if cache._paths():
                cache._depends()  # which says so where a sample depends on its mates
            saved = time.monotonic()
            try:
                with rng.untouched():
                    for _ in self._batches():
                        if time.monotonic() - saved > _SAVE_SECONDS:
                            self._save(files, report)
                            saved = time.monotonic()
            except BaseException:
                with contextlib.suppress(ValueError):  # the first error is the one to raise
                    self._save(files, None)
                raise
            self._save(files, report)
        return files.state()

    def _save(self, files: ShardFiles, report: Callable[[ShardState], None] | None) -> None:
        self.cache._share()
        if report is not None:
            report(files.state())

    def _batches(self) -> Iterator[None]:
        """Compute and store what lacks, view by view in the order of the samples; yield after each batch."""
        cache = self.cache
        for number in range(cache.views):
            samples = np.arange(self.first, self.end)
            lacks = np.logical_or.reduce([rows.missing(number, samples) for rows in cache._arrays.values()])
            samples = samples[lacks]  # all from a multiple of BATCH on, as rows are saved after whole batches
            if len(samples):
                yield from cache._ask(number, samples)


class ShardFiles:
    """The folder of one shard: arrays [V, n, ...] of its n samples, and a JSON file of facts.

    Rows are stored in one order, so that their number says which are there. Facts are written after the rows are on the
    disk: whatever a killed process left beyond them is stored again.

    Args:
        cache: the cache that the shard is a part of.
        number: the shard's number, from 1.
        count: the number of shards.
        ends: the first sample, and the one after the last.
    """

    def __init__(self, cache: TeacherCache, number: int, count: int, ends: tuple[int, int]) -> None:
        self.cache, self.number, self.count, self.ends = cache, number, count, ends
        self.folder = Path(cache.folder) / FOLDER / name_of(number, count)
        self.identity = cache._identity()
        self.dtype = np.dtype(cache.dtype)
        self.facts: dict[str, Any] = {}

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the shard; another process that wants it is refused at once."""
        from filelock import Timeout

        try:
            with locked(self.folder / ".lock", wait=0):
                yield
        except Timeout:
            raise ValueError(f"The shard '{self.folder}' is being filled by another process.") from None

    def state(self) -> ShardState:
        """Return how far the shard is, as its file of facts says."""
        states = shards_in(self.cache.folder)
        return next(each for each in states if (each.number, each.count) == (self.number, self.count))

    def locked(self) -> AbstractContextManager[None]:
        """Return an empty block: `alone` holds the lock."""
        return contextlib.nullcontext()

    def size(self, shapes: Mapping[Key, tuple[int, ...]]) -> int:
        """Return the size of the shard's part of some arrays in bytes."""
        return sum(int(np.prod(self._own(shape))) * self.dtype.itemsize for shape in shapes.values())

    def _own(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], self.ends[1] - self.ends[0], *shape[2:])

    def open(self, shapes: Mapping[Key, tuple[int, ...]]) -> dict[Key, _OffsetRows]:
        """Return the shard's rows of some arrays; missing files are created."""
        facts = read_facts(self.folder) or self._new_facts()
        if facts["identity"] != self.identity:
            raise ValueError(
                f"The shard '{self.folder}' was made of something else "
                f"({check.difference(facts['identity'], self.identity)}): delete its folder, or choose another folder."
            )
        arrays = facts["arrays"]
        new = {key: shape for key, shape in shapes.items() if text_of(key) not in arrays}
        check_room(self.folder, self.size(new))
        try:
            for key, shape in new.items():
                name = f"{len(arrays):03}.npy"
                write_empty(self.folder / name, self._own(shape), self.dtype)
                arrays[text_of(key)] = {"file": name, "shape": self._own(shape), "stored": 0, "sha256": None}
                arrays[text_of(key)]["dtype"] = self.dtype.name
            if new:
                write_json(self.folder / FACTS, facts)
        except OSError as error:
            raise not_written(self.folder, error) from None
        self.facts = facts
        self.cache.roundings.update({path: Rounding(**each) for path, each in facts.get("rounding", {}).items()})
        opened = {}
        for key, shape in shapes.items():
            array = arrays[text_of(key)]
            marks = np.arange(shape[0] * self._own(shape)[1]) < array["stored"]
            marks = marks.reshape(self._own(shape)[:2])
            rows = StoredRows(self.folder / array["file"], self._own(shape), self.dtype, marks)
            opened[key] = _OffsetRows(rows, self.ends[0])
        return opened

    def _new_facts(self) -> dict[str, Any]:
        place = {"shard": self.number, "of": self.count, "first": self.ends[0], "end": self.ends[1]}
        return {"format": 1, "identity": self.identity, **place, "arrays": {}}

    def stamps(self, dataset: FileDataset) -> _OffsetStamps:
        """Return the stamps of the shard's image files."""
        return _OffsetStamps(FileStamps(self.folder, dataset.subset(torch.arange(*self.ends))), self.ends[0])

    def share(self, arrays: Mapping[Key, Any], *, held: bool = False) -> None:
        """Write rows, and then the facts, to the disk; whole arrays get their checksums."""
        for key, rows in arrays.items():
            rows.flush()
            fact = self.facts["arrays"][text_of(key)]
            fact["stored"] = rows.stored()
            if rows.complete and fact["sha256"] is None:
                fact["sha256"] = sha256(self.folder / fact["file"])
        if self.cache.roundings:
            self.facts["rounding"] = {path: each.described() for path, each in self.cache.roundings.items()}
        try:
            write_json(self.folder / FACTS, self.facts)
        except OSError as error:
            raise not_written(self.folder, error) from None


class _OffsetRows:
    """The rows of a shard by their positions in the whole dataset."""

    lost = False

    def __init__(self, rows: StoredRows, first: int) -> None:
        self._rows, self._first = rows, first
        self._marks = rows.marks if rows.marks is not None else np.ones(rows.shape[:2], bool)

    @property
    def complete(self) -> bool:
        return bool(self._marks.all())

    def stored(self) -> int:
        return int(self._marks.sum())

    def missing(self, number: int, rows: Array | slice = slice(None)) -> Array:
        return self._rows.missing(number, rows if isinstance(rows, slice) else rows - self._first)

    def read(self, number: int, rows: Array) -> Array:
        return self._rows.read(number, np.asarray(rows) - self._first)

    def write(self, number: int, rows: Array, values: Array) -> None:
        self._rows.write(number, np.asarray(rows) - self._first, values)

    def flush(self) -> None:
        if not self._rows.there():
            raise ValueError(f"The shard '{self._rows.path.parent}' was removed while it was filled.")
        self._rows.flush()


class _OffsetStamps:
    """The stamps of a shard's files by their positions in the whole dataset."""

    def __init__(self, stamps: FileStamps, first: int) -> None:
        self._stamps, self._first = stamps, first

    def take(self, samples: Array) -> None:
        self._stamps.take(np.asarray(samples) - self._first)

    def flush(self) -> None:
        self._stamps.flush()
