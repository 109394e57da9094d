"""The identity of the images in a teacher's cache: from a loader, and from files read on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from congruence.core.batch import unpack
from congruence.core.devices import tensors
from congruence.core.files import atomic, read_array
from congruence.data.datasets.files import FileDataset
from congruence.data.loading.batches import Loader
from congruence.teacher_cache.stored_rows import StoredRows, not_written

FIRST = 256  # samples used to identify a dataset without a fingerprint
STAMPS = "files.npy"
_TIME, _DIGEST = 0, 1  # columns; a digest of 0: none was taken


def content(loader: Loader) -> dict[str, Any]:
    """Return everything that determines a loader's images, except their order."""
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
    batch = unpack(next(iter(loader.in_order(0, FIRST))))
    digest = hashlib.sha256()
    for tensor in tensors(batch.inputs):
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return f"first {FIRST}: {digest.hexdigest()}"


class FileStamps:
    """The change time and a digest of each image file, recorded when the teacher's first output for it is stored.

    A fingerprint only has names and lengths. Files whose change time differs are read again: if the digests agree, the
    files were copied, and the new time is recorded. Cost: while a cache is filled, each file is read a second time,
    just after decoding; opening a cache reads N change times.

    Args:
        folder: folder of the cache, locked by the caller.
        dataset: the dataset of the files.

    Raises:
        ValueError: if the content of files has changed, with the name of the first.
    """

    def __init__(self, folder: Path, dataset: FileDataset) -> None:
        self.dataset, path, shape = dataset, folder / STAMPS, (1, len(dataset), 2)
        self._times = dataset.changed_at()
        stored = _stored(path, shape)
        taken = stored[0, :, _DIGEST] != 0
        others = np.flatnonzero(taken & (stored[0, :, _TIME] != self._times))
        digests = dataset.digests(others)
        changed = others[digests != stored[0, others, _DIGEST]]
        if len(changed):
            first = dataset.files[int(dataset._rows(dataset.index)[changed[0]])]
            raise ValueError(
                f"The teacher's cache '{folder}' was made of other pixels: {len(changed):,} of {len(dataset):,} image "
                f"files have changed since (the first: '{first}'): delete it, or choose another folder."
            )
        if not taken.any() or len(others):
            stored[0, others, _TIME] = self._times[others]
            try:
                with atomic(path) as file:
                    np.save(file, stored)
            except OSError as error:
                raise not_written(folder, error) from None
        self._rows = StoredRows(path, shape, stored.dtype, taken[None])

    def take(self, samples: npt.NDArray[Any]) -> None:
        """Record the stamps of samples that are being stored, unless they are already recorded."""
        new = samples[self._rows.missing(0, samples)]
        if len(new):
            self._rows.write(0, new, np.stack([self._times[new], self.dataset.digests(new)], axis=1))

    def flush(self) -> None:
        """Write the stamps to the disk, before the samples count as stored."""
        self._rows.flush()


def adopt(folder: Path, shards: Mapping[Path, int], samples: int) -> None:
    """Take over the stamps that shards of a cache recorded for their samples.

    Args:
        folder: of the cache, locked by the caller.
        shards: the first sample of each shard, by its folder.
        samples: of the whole dataset.

    Raises:
        ValueError: for shards that were made of different pixels.
    """
    stored = _stored(folder / STAMPS, (1, samples, 2))
    before = stored.copy()
    for shard, first in shards.items():
        try:
            brought = read_array(shard / STAMPS)[0]
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            raise ValueError(
                f"The shard '{shard}' of a teacher's cache is damaged: '{STAMPS}' cannot be read."
            ) from None
        mine = stored[0, first : first + len(brought)]
        new = (brought[:, _DIGEST] != 0) & (mine[:, _DIGEST] == 0)
        other = (brought[:, _DIGEST] != 0) & (mine[:, _DIGEST] != 0) & (brought[:, _DIGEST] != mine[:, _DIGEST])
        if other.any():
            raise ValueError(
                f"The shard '{shard}' was made of other pixels than the rest of the teacher's cache: sample "
                f"{first + int(np.flatnonzero(other)[0])} differs. Delete its folder and make it again."
            )
        mine[new] = brought[new]
    if not np.array_equal(stored, before):
        try:
            with atomic(folder / STAMPS) as file:
                np.save(file, stored)
        except OSError as error:
            raise not_written(folder, error) from None


def _stored(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return the stamps in a file; empty if it is absent, or was left by a cache of other images."""
    try:
        stored = read_array(path)
    except FileNotFoundError:
        stored = None
    except (OSError, ValueError):
        raise ValueError(f"The teacher's cache '{path.parent}' is damaged: '{path.name}' cannot be read.") from None
    fits = stored is not None and stored.shape == shape and stored.dtype == np.int64
    return stored if fits else np.zeros(shape, np.int64)
