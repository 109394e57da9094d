"""A teacher that looks at each training image once a view: what it says is stored in files and read from there."""

from __future__ import annotations

import contextlib
import functools
import hashlib
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
from congruence.core.devices import tensors, to_device
from congruence.core.host_values import extremes, on_host
from congruence.core.inputs import TEACHER, inputs_of
from congruence.data.loading.batches import Loader
from congruence.distiller.bindings import Binding
from congruence.distiller.forwards import paths_to_read
from congruence.distiller.recall import Recall
from congruence.models.layouts import is_plain
from congruence.models.teacher import Teacher
from congruence.teacher_cache.answers import Answers, Array
from congruence.teacher_cache.cache_files import CacheFiles, Key, megabytes
from congruence.teacher_cache.stored_rows import StoredRows

LOG = logging.getLogger("congruence")
CHECKS: Mapping[str, check.Constraint] = {"dtype": check.Choice(("float16", "float32"))}
BATCH = 256  # samples that a pass reads at a time; a multiple of what the teacher sees at a time
_SHARE_SECONDS = 60.0  # of a pass, after which what it stored is published


class TeacherCache:
    """A frozen teacher, and its answers to the training images in files.

    Give it to a `Distiller` in the teacher's place. In training mode the terms then read the teacher's layers from the
    files, by the batch's `index`; in evaluation mode, where images are others, the teacher runs. `fit` fills the files
    while its first V epochs train, and what these did not show at the end of the last of them; in a loop of one's own
    they are made when first needed, in one pass over the images for each stored view. Either gives the same bits, and
    what is there is found again by later runs, and shared by those that run at the same time.

    The images' augmentation must repeat: with `view_cycle=V` in the loader, epoch e shows each image as epoch e mod V
    did, with a live teacher just the same. Of a loader without augmentation one view is stored.

    With dtype "float32" a cached teacher gives what the live one gives, up to the rounding that a network's batch size
    makes (1e-6); "float16" halves the size and rounds to 3 digits (relative 5e-4). What is stored of an image does not
    depend on the batch it came in. Where a teacher lets it (dynamic quantisation may have one scale for a batch, some
    norms the batch's statistics), it cannot be what every batch would give: this is found out and told, and the teacher
    asked in one pass in the dataset's order, so that the cache is the same at least.

    Args:
        teacher: the network.
        loader: of `congruence.data.loader`, for training.
        folder: of this cache alone.
        dtype: "float16" or "float32".

    Raises:
        ValueError: for a loader that is another's or does not repeat. When the files are made or opened: for a folder
            whose cache is of another teacher, other images or another augmentation (which is said), for one that is
            damaged, a disk that is too small, a layer whose numbers float16 cannot hold, or a teacher that holds what
            cannot be read (a session, say): `teacher.fingerprint = "NAME"` then tells it from others.

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
        self._arithmetic = ""  # of the teacher when the files were opened
        self._files: CacheFiles | None = None
        self._opened: list[Binding] = []
        self._arrays: dict[Key, StoredRows] = {}  # by view and path
        self._stored_names: dict[Key, Key] = {}  # under which the files have them
        self._mates_matter: bool | None = None  # not tried yet
        self.filling: Filling | None = None  # of the run that fills it now

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy starts with: it opens the files anew, since a copy of a map is no map."""
        opened: dict[str, Any] = {"_files": None, "_opened": [], "_arrays": {}, "_stored_names": {}}
        return {**vars(self), **opened, "_mates_matter": None, "filling": None}

    @property
    def views(self) -> int:
        """How often each image is stored."""
        return (self.loader.view_cycle or 1) if self.loader.varies() else 1

    @property
    def _answers(self) -> Answers:
        return Answers(self.teacher, self.dtype)

    @functools.cached_property
    def _content(self) -> dict[str, Any]:
        return _content(self.loader)

    def describe(self) -> dict[str, Any]:
        """Return what of it makes a run the run it is."""
        return {"views": self.views, "dtype": self.dtype}

    def serves(self, loader: Any) -> None:
        """Check that a training loader shows what is stored.

        Raises:
            ValueError: where it is another one, saying in what.
        """
        if loader is self.loader:
            return
        if not isinstance(loader, Loader):
            check.fail("fit", "train_loader", "the one that the TeacherCache was made with", type(loader).__name__)
        mine, other = self._content, _content(loader)
        if mine != other:
            other_way = check.difference(mine, other)
            check.fail("fit", "train_loader", "one that shows what the TeacherCache holds", f"another ({other_way})")

    @property
    def complete(self) -> bool:
        """Whether all answers of the layers that terms read are stored."""
        return bool(self._arrays) and all(rows.complete for rows in self._arrays.values())

    def open(self, bindings: Iterable[Binding]) -> None:
        """Open the layers that terms read; what is not stored of them the teacher says now, in one pass."""
        self._lay_out(list(bindings))
        if not self.complete:
            self._make()

    def fill(self, bindings: Iterable[Binding]) -> Filling | None:
        """Open the layers that terms read; return what stores, while a run trains, what is not stored of them.

        The run's loader must be one that the cache `serves`. None where all is stored; a teacher whose answer to a
        sample depends on the rest of its batch is asked in one pass over the samples in order instead.
        """
        self._lay_out(list(bindings))
        if self.complete:
            return None
        if self._depends():
            self._make()
            return None
        LOG.info("The teacher's answers are stored as the epochs ask for them.")
        self.filling = Filling(self)
        return self.filling

    def fill_rest(self) -> None:
        """Ask the teacher for what the epochs of a run have left out; several ranks do so together.

        The first that comes asks about all, while the others wait and find it done.
        """
        self._share()
        if any(ranks.from_all_ranks(not self.complete)):
            ranks.barrier()  # all have published
            if not self.complete and not any(rows.lost for rows in self._arrays.values()):
                self._make()

    def _lay_out(self, bindings: list[Binding]) -> None:
        """Open the layers that terms read, with the rows that are there."""
        arithmetic = self.teacher.arithmetic
        if arithmetic != self._arithmetic:  # what is open is not what this teacher says
            vars(self).update(self.__getstate__())
            self._arithmetic = arithmetic
        if len(bindings) == len(self._opened) and all(map(operator.is_, bindings, self._opened)):
            return
        views = dict.fromkeys(self.loader.views)
        mine = {binding.models[TEACHER] for binding in bindings if TEACHER in binding.models}
        self._name = next(iter(mine), self._name)
        paths = {view: paths for (model, view), paths in paths_to_read(bindings, views).items() if model in mine}
        samples, shapes = len(self.loader.dataset), self.teacher.taps.shapes
        keys = {(view, path) for view, of_view in paths.items() for path in of_view} - set(self._arrays)
        if keys:
            arrays = {
                (view, self._stored_as(path)): (self.views, samples, *shapes[path][1:]) for view, path in sorted(keys)
            }
            path_of = {(view, self._stored_as(path)): (view, path) for view, path in keys}
            self._files = self._files or CacheFiles(self.folder, self._identity(), self.dtype)
            LOG.info("The teacher's cache '%s': %s.", self.folder, megabytes(self._files.size(arrays)))
            opened = self._files.open(arrays)
            self._stored_names |= {path_of[key]: key for key in opened}
            self._arrays |= {path_of[key]: rows for key, rows in opened.items()}
            self._mates_matter = None
        self._opened = bindings

    def _identity(self) -> dict[str, Any]:
        teacher = self.teacher.fingerprint().readable("`TeacherCache`")
        identity = {"teacher": teacher.content, "teacher_structure": teacher.structure}
        identity |= {"arithmetic": self._arithmetic} if self._arithmetic else {}
        return identity | {**self._content, "dtype": self.dtype}

    def _stored_as(self, path: str) -> str:
        """Return under which name a layer is stored: what was stored before layers were turned is not taken for it."""
        layout = self.teacher.taps.layouts.get(path, "")
        return path if not layout or is_plain(layout) else f"{path} as {layout}"

    def _share(self, *, held: bool = False) -> None:
        """Publish what this process stored, and learn what others did."""
        if self._files is not None:
            self._files.share({self._stored_names[key]: rows for key, rows in self._arrays.items()}, held=held)

    def _depends(self) -> bool:
        """Whether a sample's answer depends on its mates; tried on the dataset's first samples, and told."""
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
        """Return the opened layers of each view that lack an answer."""
        paths: dict[str, list[str]] = {}
        for (view, path), rows in self._arrays.items():
            if not rows.complete:
                paths.setdefault(view, []).append(path)
        return paths

    def _make(self) -> None:
        """Ask the teacher for all that is not stored; another process that does so is waited for."""
        if self._files is None:
            return
        with self._files.locked(), rng.untouched():
            self._share(held=True)
            if self.complete:
                return
            lacking = [self._lacking(number) for number in range(self.views)]
            count = sum(map(len, lacking))
            if count == self.views * len(self.loader.dataset):
                LOG.info("The teacher looks at %d images %d times.", len(self.loader.dataset), self.views)
            else:
                LOG.info("The teacher looks at %d images that are not stored.", count)
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
        """Return the samples that a pass looks at in a view: whole chunks in the dataset's order where mates matter."""
        lacks = np.logical_or.reduce([rows.missing(number) for rows in self._arrays.values()])
        if self._depends():
            chunks = np.unique(np.flatnonzero(lacks) // self._answers.chunk)
            lacks = np.isin(np.arange(len(lacks)) // self._answers.chunk, chunks)
        return np.flatnonzero(lacks)

    def _ask(self, number: int, samples: Array) -> Iterator[None]:
        """Store what the teacher says of some samples in a view; yield after each batch of them."""
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
        """Return what the teacher takes of a batch, by view."""
        batch = unpack(raw)
        views = {**batch.views, "main": batch.inputs}
        return {view: inputs_of(inputs, self._name, TEACHER) for view, inputs in views.items()}

    def _keep(self, view: str, path: str, number: int, samples: Array, values: Array) -> None:
        """Store answers; those that are there already stay."""
        rows = self._arrays[view, path]
        new = rows.missing(number, samples)
        rows.write(number, samples[new], values[new])

    def at(self, index: Tensor | None, epoch: int, bindings: Iterable[Binding]) -> Recall:
        """Return what reads the layers of a batch's samples, as an epoch shows them."""
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
        of_samples = samples.numpy()

        def recall(view: str, paths: set[str], inputs: Any) -> dict[str, Tensor]:
            stored = {path: self._arrays[view, path].read(number, of_samples) for path in paths}
            if self.filling is not None:
                self._complete(stored, view, number, of_samples, inputs)
            return {path: to_device(torch.from_numpy(array), index.device).float() for path, array in stored.items()}

        return recall

    def _complete(self, stored: dict[str, Array], view: str, number: int, samples: Array, inputs: Any) -> None:
        """Put into rows that were read what the teacher says of those that are not there, and store that in a step."""
        lacking = {path: self._arrays[view, path].missing(number, samples) for path in self._paths().get(view, ())}
        if not any(lacking[path].any() for path in stored.keys() & lacking.keys()):
            return
        # All layers of the view at once, those of terms that are yet to start too.
        positions = np.flatnonzero(np.logical_or.reduce(list(lacking.values())))
        once, first = np.unique(samples[positions], return_index=True)
        answers = self._answers.of(inputs, lacking.keys(), positions[first])
        for path, values in answers.items():
            if path in stored:
                at = lacking[path]
                stored[path][at] = values[np.searchsorted(once, samples[at])]
            if self.filling is not None and self.filling.storing:
                self._keep(view, path, number, once, values)


class Filling:
    """What a run has to do for a cache that it fills, from `TeacherCache.fill` to `close`.

    Meanwhile terms get what is not stored from the teacher itself, asked about the batch's own inputs, and in a `step`
    it is stored: outside one, a batch may be a rehearsal's, or a callback's, with who knows what in it.
    """

    def __init__(self, cache: TeacherCache) -> None:
        self._cache = cache
        self.storing = False

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Store what the teacher says meanwhile."""
        self.storing = True
        try:
            yield
        finally:
            self.storing = False

    def share(self) -> None:
        """Publish what was stored, and learn what other processes published."""
        self._cache._share()

    def close(self) -> None:
        """Publish, and leave the cache as one outside a run."""
        self._cache.filling = None
        self.share()
        if any(rows.lost for rows in self._cache._arrays.values()):
            vars(self._cache).update(self._cache.__getstate__())  # the next run lays them out anew


def _content(loader: Loader) -> dict[str, Any]:
    """Return what decides the images that a loader shows, but for their order."""
    fingerprinted = getattr(loader.dataset, "fingerprint", None)
    return {
        "images": fingerprinted(labels=False) if callable(fingerprinted) else _first_images(loader),
        "samples": len(loader.dataset),
        "augment": {view: repr(augment) for view, augment in loader.augment.items()},
        "view_seed": loader.view_seed if loader.varies() else None,
        "view_cycle": loader.view_cycle if loader.varies() else None,
    }


def _first_images(loader: Loader) -> str:
    """Return a hash of the first samples of a dataset that gives no fingerprint of its own."""
    batch = unpack(next(iter(loader.in_order(0, BATCH))))
    digest = hashlib.sha256()
    for tensor in tensors(batch.inputs):
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return f"first {BATCH}: {digest.hexdigest()}"
