"""A teacher that runs once on each view of each training image; its outputs are stored in files and read from there."""

from __future__ import annotations

import contextlib
import functools
import logging
import operator
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from congruence.core import check, ranks, rng
from congruence.core.batch import unpack
from congruence.core.devices import to_device
from congruence.core.host_values import extremes, on_host
from congruence.core.inputs import TEACHER, inputs_of, made
from congruence.data.datasets.files import FileDataset
from congruence.data.loading.batches import Loader
from congruence.distiller.bindings import Binding
from congruence.distiller.forwards import paths_to_read
from congruence.distiller.recall import Recall
from congruence.models.layouts import is_plain
from congruence.models.teacher import Teacher
from congruence.teacher_cache.answers import Answers
from congruence.teacher_cache.cache_files import CacheFiles, Files, Key, Rows, Stamps, megabytes
from congruence.teacher_cache.encoding import DTYPES, Array, Encoding, Rounding
from congruence.teacher_cache.shown import content

LOG = logging.getLogger("congruence")
CHECKS: Mapping[str, check.Constraint] = {"dtype": check.Choice(DTYPES)}
BATCH = 256  # samples that a pass reads at once; a multiple of the teacher's chunk
_SHARE_SECONDS = 60.0  # after this many samples, a pass publishes what it stored


class TeacherCache:
    """A frozen teacher whose outputs for the training images are stored in files.

    Pass it to a `Distiller` as the teacher. In training mode the terms then read the teacher's layers from the files,
    by the batch's `index`; in evaluation mode, on other images, the teacher runs. `fit` fills the files during its
    first V epochs, and adds samples that were left out at the end of the last of these. In a custom loop, the files are
    made when first needed, in one pass over the images for each stored view. Both give the same bits. Later runs reuse
    the files, and concurrent runs share them.
    The images' augmentation must repeat: with `view_cycle=V` in the loader, epoch e shows each image as epoch e mod V
    did (with or without a cache). For a loader without augmentation, one view is stored.
    With dtype "float32", a cached teacher equals the live one up to rounding that depends on the batch size (1e-6);
    "float16" halves the size and rounds to 3 digits (relative 5e-4); "int8" is a quarter of it, with a scale for each
    sample's row (an error of at most 0.4 % of the row's largest number). What rounding costs is measured while outputs
    are stored, logged, and kept in `roundings` by layer. Stored outputs do not depend on the batch of a sample.
    Many processes or machines can make the files before a run, each a part: `congruence.teacher_cache.fill_shard`.
    For teachers whose output does depend on it (dynamic quantisation may have one scale for a batch, some norms use
    batch statistics), no stored value can equal every batch's: this is detected and logged, and the teacher then runs
    in one pass in the dataset's order, so that the cache is at least reproducible.

    Args:
        teacher: the network.
        loader: a `congruence.data.loader` for training.
        folder: the folder of this cache, not shared with others.
        dtype: "float16", "float32" or "int8".

    Raises:
        ValueError: for a loader of another kind, or one whose augmentation does not repeat. When the files are made or
            opened: for a folder with the cache of another teacher, other images or another augmentation (the message
            says which), also if image files have changed under the same names and lengths; for damaged files, a disk
            that is too small, a layer whose numbers exceed float16, or a teacher whose content cannot be read (such as
            a session): setting `teacher.fingerprint = "NAME"` then identifies it.

    Example:
        >>> import tempfile, torch
        >>> from congruence import Distiller, data
        >>> images, labels = torch.zeros(8, 1, 2, 2, dtype=torch.uint8), torch.arange(8) % 2
        >>> images[labels == 1] = 255
        >>> dataset = data.ArrayDataset(images, labels, classes=2, mean=[0.5], std=[0.5])
        >>> loader = data.loader(dataset, batch_size=4)
        >>> teacher, student = (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)) for _ in range(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = TeacherCache(teacher, loader, folder)
        ...     distiller = Distiller(cache, student, ["kd"], example=dataset.batch([0, 1]))
        ...     inputs, labels, index = next(iter(loader))
        ...     loss = distiller(inputs, labels, index).loss
        >>> loss.requires_grad
        True
    """

    def __init__(
        self, teacher: nn.Module | Teacher, loader: Loader, folder: str | Path, *, dtype: str = "float16"
    ) -> None:
        name = "TeacherCache"
        check.hyperparameters(name, CHECKS, dtype=dtype)
        if not isinstance(teacher, (nn.Module, Teacher)):
            check.fail(name, "teacher", "a torch module", type(teacher).__name__)
        if not isinstance(loader, Loader):
            check.fail(name, "loader", "one of congruence.data.loader", type(loader).__name__)
        if loader.varies() and loader.view_cycle is None:
            check.fail(name, "loader", "one whose augmentation repeats (view_cycle=V)", "view_cycle=None")
        self.teacher = teacher if isinstance(teacher, Teacher) else Teacher(teacher)
        self.loader, self.folder, self.dtype = loader, Path(folder), dtype
        self._name = TEACHER  # in a distiller of several teachers
        self._arithmetic = ""  # the teacher's fingerprint when the files were opened
        self._files: Files | None = None
        self._stamps: Stamps | None = None  # stamps of images that are read on demand
        self._opened: list[Binding] = []
        self._arrays: dict[Key, Rows] = {}  # by view and path
        self._stored_names: dict[Key, Key] = {}  # the names that layers have in the files
        self._mates_matter: bool | None = None  # not tried yet
        self.roundings: dict[str, Rounding] = {}  # what rounding costs, by layer
        self.filling: Filling | None = None  # the filling of the current run

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a copy, which opens the files again, since a copied memory map would not be a map."""
        opened: dict[str, Any] = {"_files": None, "_stamps": None, "_opened": [], "_arrays": {}, "_stored_names": {}}
        return {**vars(self), **opened, "_mates_matter": None, "filling": None}

    @property
    def views(self) -> int:
        """The number of stored views of each image."""
        return (self.loader.view_cycle or 1) if self.loader.varies() else 1

    @property
    def _answers(self) -> Answers:
        return Answers(self.teacher, self.dtype, self.roundings)

    @functools.cached_property
    def _content(self) -> dict[str, Any]:
        return content(self.loader)

    def describe(self) -> dict[str, Any]:
        """Return the settings of the cache that identify a run."""
        return {"views": self.views, "dtype": self.dtype}

    def serves(self, loader: Any) -> None:
        """Check that a training loader gives the samples that are stored.


        Raises:
            ValueError: if it does not, with the difference.
        """
        if loader is self.loader:
            return
        if not isinstance(loader, Loader):
            check.fail("fit", "train_loader", "the one that the TeacherCache was made with", type(loader).__name__)
        mine, other = self._content, content(loader)
        if mine != other:
            other_way = check.difference(mine, other)
            check.fail("fit", "train_loader", "one that shows what the TeacherCache holds", f"another ({other_way})")

    @property
    def complete(self) -> bool:
        """Whether all answers of the layers that terms read are stored."""
        return bool(self._arrays) and all(rows.complete for rows in self._arrays.values())

    def open(self, bindings: Iterable[Binding]) -> None:
        """Open the layers that terms read; missing outputs are computed now, in one pass."""
        self._lay_out(list(bindings))
        if not self.complete:
            self._make()

    def fill(self, bindings: Iterable[Binding]) -> Filling | None:
        """Open the layers that terms read; return an object that stores missing outputs while a run trains.

        The run's loader must be one that the cache `serves`. None if everything is stored. For a teacher whose output
        depends on the rest of the batch, missing outputs are instead computed now, in one pass in order.
        """
        self._lay_out(list(bindings))
        if self.complete:
            return None
        if self._depends():
            self._make()
            return None
        LOG.info("The teacher's outputs are stored when the epochs need them.")
        self.filling = Filling(self)
        return self.filling

    def fill_rest(self) -> None:
        """Compute the outputs that the epochs of a run have left out; all ranks call this together.

        The first rank computes them all, and the others wait until it is done.
        """
        self._share()
        if any(ranks.from_all_ranks(not self.complete)):
            ranks.barrier()  # all have published
            if not self.complete and not any(rows.lost for rows in self._arrays.values()):
                self._make()

    def _lay_out(self, bindings: list[Binding]) -> None:
        """Open the layers that terms read, with the stored rows."""
        arithmetic = self.teacher.arithmetic
        if arithmetic != self._arithmetic:  # the open files are of another state of the teacher
            vars(self).update(self.__getstate__())
            self._arithmetic = arithmetic
        if len(bindings) == len(self._opened) and all(map(operator.is_, bindings, self._opened)):
            return
        keys = self._keys(bindings) - set(self._arrays)
        if keys:
            self._open(keys, self._files or CacheFiles(self.folder, self._identity(), self.dtype))
        self._opened = bindings

    def _keys(self, bindings: list[Binding]) -> set[Key]:
        """Return the views and layers that terms read."""
        views = dict.fromkeys(self.loader.views)
        mine = {binding.models[TEACHER] for binding in bindings if TEACHER in binding.models}
        self._name = next(iter(mine), self._name)
        paths = {view: paths for (model, view), paths in paths_to_read(bindings, views).items() if model in mine}
        return {(view, path) for view, of_view in paths.items() for path in of_view}

    def _open(self, keys: set[Key], files: Files) -> None:
        """Open the arrays of some layers in the given files."""
        samples, shapes, stored_shape = len(self.loader.dataset), self.teacher.taps.shapes, Encoding(self.dtype).shape
        path_of = {(view, self._stored_as(path)): (view, path) for view, path in sorted(keys)}
        arrays = {key: stored_shape((self.views, samples, *shapes[path][1:])) for key, (_, path) in path_of.items()}
        self._files = files
        LOG.info("The teacher's cache '%s': %s.", self.folder, megabytes(files.size(arrays)))
        opened = files.open(arrays)
        dataset: Any = self.loader.dataset
        if self._stamps is None and isinstance(dataset, FileDataset):
            self._stamps = files.stamps(dataset)
        self._stored_names |= {path_of[key]: key for key in opened}
        self._arrays |= {path_of[key]: rows for key, rows in opened.items()}
        self._mates_matter = None

    def _identity(self) -> dict[str, Any]:
        teacher = self.teacher.fingerprint().readable("`TeacherCache`")
        identity = {"teacher": teacher.content, "teacher_structure": teacher.structure}
        identity |= {"arithmetic": self._arithmetic} if self._arithmetic else {}
        return identity | {**self._content, "dtype": self.dtype}

    def _stored_as(self, path: str) -> str:
        """Return the name under which a layer is stored; older files, without permuted dimensions, have another."""
        layout = self.teacher.taps.layouts.get(path, "")
        return path if not layout or is_plain(layout) else f"{path} as {layout}"

    def _share(self, *, held: bool = False) -> None:
        """Publish what this process stored, and read which rows others published."""
        if self._stamps is not None:
            self._stamps.flush()
        if self._files is not None:
            self._files.share({self._stored_names[key]: rows for key, rows in self._arrays.items()}, held=held)

    def _depends(self) -> bool:
        """Whether a sample's output depends on its chunk; tested on the dataset's first samples, and logged."""
        if self._mates_matter is None:
            with rng.untouched():
                inputs = self._by_view(next(iter(self.loader.in_order(0, self._answers.chunk))))
                paths = self._paths()
                moved = max((self._answers.depend_on_mates(inputs[view], paths[view]) for view in paths), default=0.0)
            self._mates_matter = moved > 0
            if self._mates_matter:
                self._answers.tell(moved)
        return self._mates_matter

    def _paths(self) -> dict[str, list[str]]:
        """Return the opened layers of each view that lack rows."""
        paths: dict[str, list[str]] = {}
        for (view, path), rows in self._arrays.items():
            if not rows.complete:
                paths.setdefault(view, []).append(path)
        return paths

    def _make(self) -> None:
        """Compute all missing outputs; wait if another process is doing so."""
        if self._files is None:
            return
        with self._files.locked(), rng.untouched():
            self._share(held=True)
            if self.complete:
                return
            lacking = [self._lacking(number) for number in range(self.views)]
            count = sum(map(len, lacking))
            if count == self.views * len(self.loader.dataset):
                LOG.info("The teacher runs on %d images in %d views.", len(self.loader.dataset), self.views)
            else:
                LOG.info("The teacher runs on %d images that are not stored.", count)
            shared = time.monotonic()
            for number, samples in enumerate(lacking):
                for _ in self._ask(number, samples):
                    if time.monotonic() - shared > _SHARE_SECONDS:
                        self._share(held=True)
                        shared = time.monotonic()
            self._share(held=True)
        if not self.complete:
            raise ValueError(f"The teacher's cache '{self.folder}' was removed while it was made.")

    def _lacking(self, number: int) -> Array:
        """Return the samples that a pass needs in a view: whole chunks in order if outputs depend on the chunk."""
        lacks = np.logical_or.reduce([rows.missing(number) for rows in self._arrays.values()])
        if self._depends():
            chunks = np.unique(np.flatnonzero(lacks) // self._answers.chunk)
            lacks = np.isin(np.arange(len(lacks)) // self._answers.chunk, chunks)
        return np.flatnonzero(lacks)

    def _ask(self, number: int, samples: Array) -> Iterator[None]:
        """Store the teacher's outputs for some samples in a view; yield after each batch of them."""
        done = 0
        for raw in self.loader.in_order(number, BATCH, torch.from_numpy(samples)) if len(samples) else ():
            inputs = self._by_view(raw)
            for view, paths in self._paths().items():
                answers = self._answers.of(inputs[view], paths)
                for path, values in answers.items():
                    self._keep(view, path, number, samples[done : done + len(values)], values)
            done += BATCH
            yield

    def _by_view(self, raw: Any) -> dict[str, Any]:
        """Return the teacher's inputs from a batch, by view."""
        batch = unpack(raw)
        views = {**batch.views, "main": batch.inputs}
        return {view: inputs_of(inputs, self._name, TEACHER) for view, inputs in views.items()}

    def _keep(self, view: str, path: str, number: int, samples: Array, values: Array) -> None:
        """Store rows; rows that are already stored stay."""
        rows = self._arrays[view, path]
        new = rows.missing(number, samples)
        if self._stamps is not None:
            self._stamps.take(samples[new])
        rows.write(number, samples[new], values[new])

    def at(self, index: Tensor | None, epoch: int, bindings: Iterable[Binding]) -> Recall:
        """Return a function that reads the stored layers for a batch's samples, in the view of the given epoch."""
        if index is None:
            raise ValueError("A cached teacher needs the batch's `index`: its samples' positions in the dataset.")
        if self.filling is None:
            self.open(bindings)
        else:
            self._lay_out(list(bindings))
        samples, number = on_host(index), self.loader.drawn_epoch(epoch) % self.views
        last = len(self.loader.dataset) - 1
        low, high = extremes(index) if len(samples) else (0, last)
        if not 0 <= low <= high <= last:
            raise ValueError(
                f"The batch's `index` must be positions in the dataset of the cached teacher, 0 to {last}, "
                f"got {low} to {high}."
            )
        of_samples, shapes, decode = samples.numpy(), self.teacher.taps.shapes, Encoding(self.dtype).decode

        def recall(view: str, paths: set[str], inputs: Any) -> dict[str, Tensor]:
            stored = {path: self._arrays[view, path].read(number, of_samples) for path in paths}
            if self.filling is not None:
                self._complete(stored, view, number, of_samples, inputs)
            read = {path: decode(array, tuple(shapes[path][1:])) for path, array in stored.items()}
            return {path: to_device(torch.from_numpy(array), index.device).float() for path, array in read.items()}

        return recall

    def _complete(self, stored: dict[str, Array], view: str, number: int, samples: Array, inputs: Any) -> None:
        """Complete the rows that were read by running the teacher on missing ones; store these in a step."""
        lacking = {path: self._arrays[view, path].missing(number, samples) for path in self._paths().get(view, ())}
        if not any(lacking[path].any() for path in stored.keys() & lacking.keys()):
            return
        # All layers of the view at once, including those of terms that have not started.
        positions = np.flatnonzero(np.logical_or.reduce(list(lacking.values())))
        once, first = np.unique(samples[positions], return_index=True)
        answers = self._answers.of(made(inputs), lacking.keys(), positions[first])
        for path, values in answers.items():
            if path in stored:
                at = lacking[path]
                stored[path][at] = values[np.searchsorted(once, samples[at])]
            if self.filling is not None and self.filling.storing:
                self._keep(view, path, number, once, values)


class Filling:
    """Handles the filling of a cache by a run, from `TeacherCache.fill` to `close`.

    In the meantime, missing rows are computed by the teacher from the batch's inputs, and stored inside a `step`.
    Outside a step they are not stored, since a batch may belong to a rehearsal or a callback and hold anything.
    """

    def __init__(self, cache: TeacherCache) -> None:
        self._cache = cache
        self.storing = False

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Store the teacher's outputs while the block runs."""
        self.storing = True
        try:
            yield
        finally:
            self.storing = False

    def share(self) -> None:
        """Publish the stored rows, and read which rows other processes published."""
        self._cache._share()

    def close(self) -> None:
        """Publish, and end the filling."""
        self._cache.filling = None
        self.share()
        for path, rounding in self._cache.roundings.items():
            LOG.info("Stored as %s, the rows of '%s' are off by %s.", self._cache.dtype, path, rounding)
        if any(rows.lost for rows in self._cache._arrays.values()):
            vars(self._cache).update(self._cache.__getstate__())  # the next run opens them again
