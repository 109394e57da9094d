"""Small images held as one array of bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from congruence.core.check import COUNT, class_labels, fail, hyperparameters, shape
from congruence.data import split
from congruence.data.augment import PLAIN_VIEWS, Augment, normalize, pad_crop_flip
from congruence.data.strong import STRONG_VIEWS, jitter_and_cut

Images = Tensor | npt.NDArray[np.uint8]
Indices = Tensor | npt.NDArray[Any] | Sequence[int]


@dataclass(frozen=True, eq=False, repr=False)
class ArrayDataset(Dataset[tuple[Tensor, int]]):
    """Images as one uint8 array (a tensor, or a memory-mapped file), with labels, read a whole batch at a time.

    A map-style dataset of pairs (normalised float32 image, label), where an unlabelled image has label -1. `loader`
    uses the faster `batch`, in which no Python runs for a single image.

    Shape:
        images uint8 [N, C, H, W]; labels int64 [N].

    Args:
        images: the bytes; a NumPy array stays where it is (memory-mapped files are not read until used).
        labels: classes from 0 on, -1 where unknown; None where there are none at all.
        classes: how many classes there are, None where that has no meaning.
        mean: one number a channel of images scaled to [0, 1]; sources take it from their training split.
        std: the same for the deviation, > 0.
        name: for messages and records.
        augment: what `augment=True` means for these images.
        class_names: one name a class, or none.
        rows: positions in `images` of the samples shown, None for all; `subset` sets it.

    Raises:
        ValueError: where arguments do not fit together.

    Example:
        >>> import torch
        >>> images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
        >>> data = ArrayDataset(images, torch.tensor([0, 1, 1]), classes=2, mean=[0.5], std=[0.25])
        >>> image, label = data[2]
        >>> label, image.flatten().tolist(), len(data.subset([0, 2]))
        (1, [-2.0, -2.0, -2.0, -2.0], 2)
    """

    images: Images
    labels: Tensor | None
    _: KW_ONLY
    classes: int | None
    mean: Sequence[float]
    std: Sequence[float]
    name: str = ""
    augment: Augment = field(default_factory=Augment)
    class_names: tuple[str, ...] = ()
    rows: Tensor | None = None

    def __post_init__(self) -> None:
        images = self.images
        if not isinstance(images, Tensor | np.ndarray) or images.ndim != 4:
            fail("ArrayDataset", "images", "an array [N, C, H, W]", getattr(images, "shape", type(images).__name__))
        if images.dtype != (torch.uint8 if isinstance(images, Tensor) else np.uint8):
            fail("ArrayDataset", "images", "of type uint8", images.dtype)
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != images.shape[1] or (name == "std" and min(values) <= 0):
                wanted = f"{images.shape[1]} numbers{' > 0' if name == 'std' else ''}, one a channel"
                fail("ArrayDataset", name, wanted, values)
            object.__setattr__(self, name, values)
        if self.classes is not None:
            hyperparameters("ArrayDataset", {"classes": COUNT}, classes=self.classes)
        if self.labels is not None:
            object.__setattr__(self, "labels", self._checked_labels(torch.as_tensor(self.labels)))

    def _checked_labels(self, labels: Tensor) -> Tensor:
        class_labels("ArrayDataset", labels=labels)
        if len(labels) != len(self):
            fail("ArrayDataset", "labels", f"as many as there are images ({len(self)})", len(labels))
        low, high = (int(labels.min()), int(labels.max())) if len(labels) else (-1, -1)
        if low < -1 or (self.classes is not None and high >= self.classes):
            top = "" if self.classes is None else f" and below {self.classes}"
            fail("ArrayDataset", "labels", f"-1 (unknown) or from 0 on{top}", f"values from {low} to {high}")
        return labels.to("cpu", torch.int64)

    def __len__(self) -> int:
        return len(self.images) if self.rows is None else len(self.rows)

    def __repr__(self) -> str:
        return f"ArrayDataset({self.name!r}, {len(self)} images {self.shape}, classes={self.classes})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def index(self) -> Tensor:
        """The samples' positions 0 … N-1: a subset counts its own."""
        return torch.arange(len(self))

    def _positions(self, indices: Indices) -> Tensor:
        chosen = torch.as_tensor(indices, device="cpu")
        if chosen.numel() == 0:
            return torch.zeros(0, dtype=torch.int64)
        if chosen.dim() != 1 or chosen.is_floating_point() or chosen.dtype == torch.bool:
            fail("ArrayDataset", "indices", "a 1-D list of integers", f"{chosen.dtype} of shape {shape(chosen)}")
        if int(chosen.min()) < 0 or int(chosen.max()) >= len(self):
            found = f"{int(chosen.min())} to {int(chosen.max())}"
            raise IndexError(f"`ArrayDataset`: `indices` must be in [0, {len(self)}), got {found}.")
        return chosen.to(torch.int64)

    def raw(self, indices: Indices) -> Tensor:
        """Return the bytes of some images as a new uint8 tensor [B, C, H, W], where `images` are."""
        chosen = self._positions(indices)
        rows = chosen if self.rows is None else self.rows[chosen]
        if isinstance(self.images, Tensor):
            return self.images.index_select(0, rows.to(self.images.device))
        return torch.from_numpy(self.images[rows.numpy()])

    def batch(
        self,
        indices: Indices,
        *,
        epoch: int = 0,
        seed: int = 0,
        augment: Augment | bool | None = False,
        view: str = "main",
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Return normalised images, augmented as a pure function of (seed, epoch, position, view).

        Shape:
            indices [B]; result float32 [B, C, H, W].

        Args:
            indices: positions in this dataset.
            epoch: counted from 0.
            seed: of the run.
            augment: an `Augment`, True for the dataset's own, False or None for none.
            view: the view's name; views draw independently, "clean" is never augmented, and "strong" has
                changed light and colours and a square cut out besides (`congruence.data.strong`).
            device: where the work is done; bytes are moved, not floats.

        Returns:
            A new tensor on `device`.
        """
        chosen = self._positions(indices)
        images = self.raw(chosen)
        if device is not None:
            images = images.to(device, non_blocking=True)
        spec = self.augment if augment is True else augment
        if spec and view not in PLAIN_VIEWS:
            images = pad_crop_flip(images, chosen, augment=spec, seed=seed, epoch=epoch, view=view)
            if view in STRONG_VIEWS:
                images = jitter_and_cut(images, chosen, seed=seed, epoch=epoch, view=view)
        return normalize(images, self.mean, self.std)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Return several samples at once; torch's own DataLoader calls this."""
        places = [index + len(self) if index < 0 else index for index in indices]
        labels = [-1] * len(places) if self.labels is None else self.labels[self._positions(places)].tolist()
        return list(zip(self.batch(places).unbind(0), labels, strict=True))

    def subset(self, indices: Indices) -> ArrayDataset:
        """Return the dataset of some samples, in the order given, without copying images; positions count from 0."""
        chosen = self._positions(indices)
        rows = chosen if self.rows is None else self.rows[chosen]
        return replace(self, rows=rows, labels=None if self.labels is None else self.labels[chosen])

    def to(self, device: torch.device | str) -> ArrayDataset:
        """Return the same dataset with its images copied to a device, where batches are then made."""
        return replace(self, images=self.raw(self.index).to(device), rows=None)

    def fingerprint(self, *, labels: bool = True) -> str:
        """Return the SHA-256 of what the dataset yields: images, normalisation and, unless told otherwise, labels."""
        head = {"shape": [len(self), *self.shape], "mean": list(self.mean), "std": list(self.std)}
        digest = hashlib.sha256(json.dumps(head).encode())
        for block in self.index.split(4096):
            digest.update(self.raw(block).cpu().contiguous().numpy().data)
        if labels:
            digest.update(b"none" if self.labels is None else self.labels.contiguous().numpy().data)
            digest.update(str(self.classes).encode())
        return digest.hexdigest()


def keep_labels(dataset: ArrayDataset, per_class: int, seed: int = 0) -> ArrayDataset:
    """Keep `per_class` labels of each class and forget the others (-1); all images stay.

    The labels kept with a smaller `per_class` are among those kept with a larger one and the same seed.

    Args:
        dataset: with labels.
        per_class: labels to keep for each class.
        seed: of the choice.

    Returns:
        The same images with fewer labels.

    Raises:
        ValueError: where the dataset has no labels, or a class has too few.

    Example:
        >>> import torch
        >>> images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
        >>> data = ArrayDataset(images, torch.tensor([0, 0, 1, 1]), classes=2, mean=[0.5], std=[0.25])
        >>> sorted(keep_labels(data, 1, seed=0).labels.tolist())
        [-1, -1, 0, 1]
    """
    hyperparameters("keep_labels", {"per_class": COUNT}, per_class=per_class)
    if dataset.labels is None:
        fail("keep_labels", "dataset", "one with labels", "a dataset without")
    known = dataset.labels[dataset.labels >= 0]
    counts = known.bincount(minlength=dataset.classes or 0)
    smallest = counts if dataset.classes is not None else torch.where(counts == 0, len(known), counts)
    if len(known) == 0 or int(smallest.min()) < per_class:
        least = f"only {int(smallest.min())} in class {int(smallest.argmin())}" if len(known) else "no label at all"
        fail("keep_labels", "per_class", "at most the number of labels of every class", f"{per_class} with {least}")
    kept = split.first_of_each(dataset.labels, per_class, seed=seed, stream=split.LABELS)
    labels = torch.full_like(dataset.labels, -1)
    labels[kept] = dataset.labels[kept]
    return replace(dataset, labels=labels)
