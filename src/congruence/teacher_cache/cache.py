"""A teacher that looks at each training image once: what it says is stored in files and read from there."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.batch import unpack
from congruence.core.devices import row_count, take_rows, tensors, to_device
from congruence.core.host_values import extremes, on_host
from congruence.data.loading.batches import Loader
from congruence.distiller.bindings import Binding
from congruence.distiller.forwards import paths_to_read
from congruence.distiller.recall import Recall
from congruence.models.layouts import is_plain
from congruence.models.teacher import Teacher
from congruence.teacher_cache.cache_files import Blocks, CacheFiles, Key, megabytes

LOG = logging.getLogger("congruence")
CHECKS: Mapping[str, check.Constraint] = {"dtype": check.Choice(("float16", "float32"))}
BATCH = 256  # the teacher's own, always full: its numbers then do not depend on who else is in a batch


class TeacherCache:
    """A frozen teacher, and its answers to the training images in files.

    Give it to a `Distiller` in the teacher's place. In training mode the terms then read the teacher's layers from the
    files, by the batch's `index`; in evaluation mode, where images are others, the teacher runs. The files are made
    when they are first needed, in one pass over the images for each stored view, and found again by later runs.

    The images' augmentation must repeat: with `view_cycle=V` in the loader, epoch e shows each image as epoch e mod V
    did, with a live teacher just the same. Of a loader without augmentation one view is stored.

    With dtype "float32" a cached teacher gives what the live one gives, up to the rounding that a network's batch size
    makes (1e-6); "float16" halves the size and rounds to 3 digits (relative 5e-4).

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
        self._arrays: dict[Key, Any] = {}

    @property
    def views(self) -> int:
        """How often each image is stored."""
        return (self.loader.view_cycle or 1) if self.loader.varies() else 1

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

    def open(self, bindings: Iterable[Binding]) -> None:
        """Open the layers that terms read, and make the files of those that are not there."""
        views = dict.fromkeys(self.loader.views)
        paths = {
            view: paths for (model, view), paths in paths_to_read(list(bindings), views).items() if model == "teacher"
        }
        samples, shapes = len(self.loader.dataset), self.teacher.taps.shapes
        keys = {(view, path) for view, of_view in paths.items() for path in of_view} - set(self._arrays)
        if not keys:
            return
        arrays = {
            (view, self._stored_as(path)): (self.views, samples, *shapes[path][1:]) for view, path in sorted(keys)
        }
        path_of = {(view, self._stored_as(path)): (view, path) for view, path in keys}
        teacher = self.teacher.fingerprint().readable("`TeacherCache`")
        identity = {"teacher": teacher.content, "teacher_structure": teacher.structure}
        identity |= {**self._content, "dtype": self.dtype}
        files = CacheFiles(self.folder, identity, self.dtype)
        LOG.info("The teacher's cache '%s': %s.", self.folder, megabytes(files.size(arrays)))
        opened = files.open(arrays, lambda missing: self._answers({path_of[key]: key[1] for key in missing}))
        self._arrays.update({path_of[key]: array for key, array in opened.items()})

    def _stored_as(self, path: str) -> str:
        """Return under which name a layer is stored: what was stored before layers were turned is not taken for it."""
        layout = self.teacher.taps.layouts.get(path, "")
        return path if not layout or is_plain(layout) else f"{path} as {layout}"

    def _answers(self, stored_as: Mapping[Key, str]) -> Blocks:
        """Run the teacher over every stored view of every image, in order."""
        paths: dict[str, set[str]] = {}
        for view, path in stored_as:
            paths.setdefault(view, set()).add(path)
        LOG.info("The teacher looks at %d images %d times.", len(self.loader.dataset), self.views)
        for number in range(self.views):
            for raw in self.loader.in_order(number, BATCH):
                batch = unpack(raw)
                inputs = {**batch.views, "main": batch.inputs}
                yield {
                    (view, stored_as[view, path]): self._block(path, tensor)
                    for view, paths_of_view in paths.items()
                    for path, tensor in self._full(inputs[view], paths_of_view).items()
                }

    def _block(self, path: str, tensor: Tensor) -> npt.NDArray[Any]:
        """Return a batch's answers for the files, which have the example's shape for every sample."""
        expected = list(self.teacher.taps.shapes[path][1:])
        if list(tensor.shape[1:]) != expected:
            raise ValueError(
                f"The teacher's layer '{path}' gives {list(tensor.shape[1:])} a sample in this batch and {expected} "
                "for the example: a TeacherCache needs inputs of one size; pad all to one length."
            )
        return np.asarray(tensor.float().cpu().numpy())

    def _full(self, inputs: Any, paths: set[str]) -> dict[str, Tensor]:
        """Run the teacher over a batch that is filled up with its own first samples."""
        device = next(self.teacher.module.parameters(), torch.empty(0)).device
        rows = row_count(inputs) or 1
        full = to_device(take_rows(inputs, torch.arange(BATCH) % rows, rows), device)
        return {path: tensor[:rows] for path, tensor in self.teacher.read(full, only=paths)[1].items()}

    def at(self, index: Tensor | None, epoch: int, bindings: Iterable[Binding]) -> Recall:
        """Return what reads the layers of a batch's samples, as an epoch shows them."""
        if index is None:
            raise ValueError("A cached teacher needs the batch's `index`: its samples' positions in the dataset.")
        self.open(bindings)
        rows, number = on_host(index), self.loader.drawn_epoch(epoch) % self.views
        last = len(self.loader.dataset) - 1
        low, high = extremes(index) if len(rows) else (0, last)
        if not 0 <= low <= high <= last:
            raise ValueError(
                f"The batch's `index` must be positions in the dataset of the cached teacher, 0 to {last}, "
                f"got {low} to {high}."
            )

        def recall(view: str, paths: set[str]) -> dict[str, Tensor]:
            stored = {path: self._arrays[view, path][number][rows.numpy()] for path in paths}
            return {path: to_device(torch.from_numpy(array), index.device).float() for path, array in stored.items()}

        return recall


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
    """Return a hash of the first images of a dataset that gives no fingerprint of its own."""
    batch = unpack(next(iter(loader.in_order(0, BATCH))))
    digest = hashlib.sha256()
    for tensor in tensors(batch.inputs):
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return f"first {BATCH}: {digest.hexdigest()}"
