"""`FileDataset`: images that stay in their files until a batch asks for them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from congruence.core.check import fail
from congruence.core.devices import to_device
from congruence.core.files import absent
from congruence.core.rng import keyed_uniform
from congruence.data.augment.crops import PLAIN_VIEWS, Augment, pad_crop_flip, view_stream
from congruence.data.augment.photos import DRAWS, Pair, PhotoAugment, augmented, evaluated
from congruence.data.augment.strong import STRONG_VIEWS, jitter_and_cut
from congruence.data.datasets.batched import Indices, Spec
from congruence.data.datasets.decode import bytes_of, named, opened
from congruence.data.datasets.images import ImageDataset
from congruence.data.datasets.packed import Held, Packed, place
from congruence.models.inputs import ImageInput


@dataclass(frozen=True, eq=False, repr=False)
class FileDataset(ImageDataset):
    """Image files with labels, decoded for each batch: for images that do not fit into one array.

    Without augmentation, images are resized and cropped at the centre; with `resize=None` they equal those of an
    `ArrayDataset` of the same files bit for bit. An `Augment` works on these, a `PhotoAugment` on the whole photograph.
    Each image's random numbers are a function of (seed, epoch, position, view), so `loader` gives the same bits with
    any number of workers and resumes at any batch.

    Shape:
        labels int64 [N]; batches [B, 3, height, width], or [B, 1, height, width] in grey.

    Args:
        root: the folder that `files` are in.
        files: N paths below it, or images inside other files (`TarFiles`, `ParquetFiles`).
        labels: classes from 0 on, -1 if unknown; None if there are no labels.
        size: (height, width) of a batch's images.
        resize: the length of the shorter side before cropping, or (height, width), which may change the ratio; None to
            cover `size` as closely as the ratio allows.
        grey: whether images are converted to grey.
        classes: the number of classes, None if there are no classes.
        mean: one number for each channel, for images scaled to [0, 1].
        std: the standard deviation > 0 of each channel.
        name: the name used in messages and records.
        augment: what `augment=True` means for these images.
        class_names: one name for each class, or empty.
        rows: positions in `files` of the samples in this dataset, None for all; set by `subset`.
        inputs: how each model takes the images, if they differ; set by `for_models`.

    Raises:
        ValueError: if arguments do not fit together; from a batch, with the name of a file that is absent or cannot be
            decoded.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (40, 30), "white").save(folder / "a.png")
        >>> data = FileDataset(folder, ["a.png"], None, size=(8, 8), resize=9, classes=None, mean=[0] * 3, std=[1] * 3)
        >>> data.batch([0], augment=PhotoAugment(crop="resized")).mean().item(), data.shape
        (1.0, (3, 8, 8))
    """

    root: Path
    files: Sequence[str]
    labels: Tensor | None
    _: KW_ONLY
    size: Pair
    resize: int | Pair | None = None
    grey: bool = False
    classes: int | None
    mean: Sequence[float]
    std: Sequence[float]
    name: str = ""
    augment: Spec = field(default_factory=PhotoAugment)
    class_names: tuple[str, ...] = ()
    rows: Tensor | None = None
    inputs: Mapping[str, ImageInput] | None = None

    def __post_init__(self) -> None:
        self._check(self.shape[0])
        height, width = self.size
        if self.resize is not None:
            least = (height, width) if isinstance(self.resize, tuple) else (max(height, width),)
            sides = self.resize if isinstance(self.resize, tuple) else (self.resize,)
            if any(side < needed for side, needed in zip(sides, least, strict=True)):
                fail("FileDataset", "resize", f"enough to crop {height}x{width} from", self.resize)
        self.check_augment(self.augment)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return (1 if self.grey else 3, *self.size)

    @property
    def in_memory(self) -> bool:
        """False: decoding benefits from worker processes."""
        return False

    @property
    def held(self) -> int:
        """The number of files before `rows` are selected."""
        return len(self.files)

    def check_augment(self, augment: Spec | bool | None) -> None:
        """Raise a ValueError if these images do not support the augmentation."""
        sides = augment.sides if isinstance(augment, PhotoAugment) else None
        if sides is not None and sides[0] < max(self.size):
            height, width = self.size
            fail("FileDataset", "augment.sides", f">= {max(self.size)} to crop {height}x{width} from", sides)

    def drawn(
        self,
        indices: Indices,
        *,
        epoch: int = 0,
        seed: int = 0,
        augment: Spec | bool | None = False,
        view: str = "main",
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Return the images of `batch` as bytes, before normalisation: uint8 [B, C, H, W]."""
        chosen = self._positions(indices)
        own = self.augment if augment is True else augment
        spec = own if own and view not in PLAIN_VIEWS else None
        self.check_augment(spec)
        draws = keyed_uniform(seed, epoch, chosen, DRAWS, stream=view_stream(view)).tolist()
        images = torch.empty(len(chosen), *self.shape, dtype=torch.uint8)
        for position, row in enumerate(self._rows(chosen).tolist()):
            photo = opened(place(self.root, self.files, row), grey=self.grey)
            if isinstance(spec, PhotoAugment):
                photo = augmented(photo, draws[position], augment=spec, size=self.size, resize=self.resize)
            else:
                photo = evaluated(photo, self.size, self.resize)
            images[position] = torch.from_numpy(bytes_of(photo).copy()).permute(2, 0, 1)
        if isinstance(spec, Augment):
            images = pad_crop_flip(images, chosen, augment=spec, seed=seed, epoch=epoch, view=view)
        if spec and view in STRONG_VIEWS:
            images = jitter_and_cut(images, chosen, seed=seed, epoch=epoch, view=view)
        moved: Tensor = to_device(images, device)
        return moved

    def fingerprint(self, *, labels: bool = True) -> str:
        """Return the SHA-256 of what decides the images without decoding them: names and lengths of the files, sizes,
        normalisation and, unless told otherwise, labels.
        """  # fmt: skip
        head: dict[str, Any] = {
            "files": [len(self), *self.shape],
            "resize": self.resize,
            "mean": self.mean,
            "std": self.std,
        }
        head |= self._inputs_head()
        digest = hashlib.sha256(json.dumps(head).encode())
        rows = self._rows(self.index)
        if isinstance(self.files, Packed):
            lengths = self.files.sizes(rows.numpy()).tolist()
        else:
            lengths = (_status(self.root / self.files[row]).st_size for row in rows.tolist())
        for row, length in zip(rows.tolist(), lengths, strict=True):
            digest.update(f"{self.files[row]} {length}\n".encode())
        if labels:
            digest.update(b"none" if self.labels is None else self.labels.contiguous().numpy().data)
            digest.update(str(self.classes).encode())
        return digest.hexdigest()

    def changed_at(self) -> npt.NDArray[np.int64]:
        """Return when each sample's file last changed, in nanoseconds [N].

        This is the later of its modification time and, if the system has one, its metadata change time, which also
        changes if a file is replaced by one of the same length and modification time.

        Raises:
            ValueError: that names a file that is absent.
        """
        if isinstance(self.files, Packed):
            return self.files.changed_at(self._rows(self.index).numpy())
        stats = (_status(self.root / self.files[row]) for row in self._rows(self.index).tolist())
        return np.array([max(stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats], dtype=np.int64)

    def digests(self, samples: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Return 64 bits of a hash of the files of some samples, never 0.

        Raises:
            ValueError: that names a file that is absent.
        """
        rows = self._rows(torch.from_numpy(np.asarray(samples, dtype=np.int64))).tolist()
        return np.array([_digest(place(self.root, self.files, row)) for row in rows], dtype=np.int64)


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError:
        raise absent(path) from None


def _digest(path: Path | Held) -> int:
    try:
        content = path.read() if isinstance(path, Held) else path.read_bytes()
    except OSError:
        raise absent(named(path)) from None
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True) | 1


def files_changed(dataset: Any) -> dict[str, str]:
    """Return the change times of a dataset's files, as an entry of the identity of kept rows.

    A fingerprint only has their names and lengths. Empty for a dataset that does not read files on demand.
    """
    if not isinstance(dataset, FileDataset):
        return {}
    return {"files_changed": hashlib.sha256(dataset.changed_at().tobytes()).hexdigest()[:32]}


def changed_since(dataset: Any, moment: int) -> list[str]:
    """Return the names of the files of a `FileDataset` that were written or replaced after a moment, in order.

    Args:
        dataset: any; one that is no `FileDataset` reads no files while it is asked.
        moment: in nanoseconds since the epoch, as `os.stat_result.st_mtime_ns` is.
    """
    if not isinstance(dataset, FileDataset):
        return []
    rows = dataset._rows(dataset.index)[torch.from_numpy(dataset.changed_at() > moment)]
    return [dataset.files[row] for row in rows.tolist()]
