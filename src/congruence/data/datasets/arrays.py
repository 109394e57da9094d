"""`ArrayDataset`: images as one array of bytes, in memory or memory-mapped; and `keep_labels`, which removes labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from congruence.core.check import COUNT, fail, hyperparameters
from congruence.core.devices import to_device
from congruence.data.augment.crops import PLAIN_VIEWS, Augment, pad_crop_flip
from congruence.data.augment.photos import PhotoAugment
from congruence.data.augment.strong import STRONG_VIEWS, jitter_and_cut
from congruence.data.datasets import split
from congruence.data.datasets.batched import BatchDataset, Indices, Spec
from congruence.data.datasets.images import ImageDataset
from congruence.models.inputs import ImageInput

Images = Tensor | npt.NDArray[np.uint8]
Some = TypeVar("Some", bound=BatchDataset)


@dataclass(frozen=True, eq=False, repr=False)
class ArrayDataset(ImageDataset):
    """Images as one uint8 array (a tensor, or a memory-mapped file), with labels, read a whole batch at a time.

    A map-style dataset of pairs (normalised float32 image, label); an unlabelled image has label -1. `loader` uses
    `batch`, which is faster because it runs no Python code for single images.

    Shape:
        images uint8 [N, C, H, W]; labels int64 [N].

    Args:
        images: the bytes; a NumPy array is not copied (memory-mapped files are not read until used).
        labels: classes from 0 on, -1 if unknown; None if there are no labels.
        classes: the number of classes, None if there are no classes.
        mean: one number for each channel, for images scaled to [0, 1]; named datasets take it from their training
            split.
        std: the standard deviation > 0 of each channel.
        name: the name used in messages and records.
        augment: what `augment=True` means for these images.
        class_names: one name for each class, or empty.
        rows: positions in `images` of the samples in this dataset, None for all; set by `subset`.
        inputs: how each model takes the images, if they differ; set by `for_models`.

    Raises:
        ValueError: if arguments do not fit together.

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
    augment: Spec = field(default_factory=Augment)
    class_names: tuple[str, ...] = ()
    rows: Tensor | None = None
    inputs: Mapping[str, ImageInput] | None = None

    def __post_init__(self) -> None:
        images = self.images
        if not isinstance(images, Tensor | np.ndarray) or images.ndim != 4:
            fail("ArrayDataset", "images", "an array [N, C, H, W]", getattr(images, "shape", type(images).__name__))
        if images.dtype != (torch.uint8 if isinstance(images, Tensor) else np.uint8):
            fail("ArrayDataset", "images", "of type uint8", images.dtype)
        self._check(images.shape[1])
        self.check_augment(self.augment)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def in_memory(self) -> bool:
        """True: a batch is one gather."""
        return True

    @property
    def held(self) -> int:
        """The number of images before `rows` are selected."""
        return len(self.images)

    def check_augment(self, augment: Spec | bool | None) -> None:
        """Raise a ValueError if these images do not support the augmentation."""
        if isinstance(augment, PhotoAugment):
            fail("ArrayDataset", "augment", "an Augment (a PhotoAugment is for images in files: stream=True)", augment)

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
        rows = self._rows(chosen)
        if isinstance(self.images, Tensor):
            images = self.images.index_select(0, to_device(rows, self.images.device))
        else:
            images = torch.from_numpy(self.images[rows.numpy()])
        if device is not None:
            images = to_device(images, device)
        spec = self.augment if augment is True else augment
        self.check_augment(spec)
        if isinstance(spec, Augment) and view not in PLAIN_VIEWS:
            images = pad_crop_flip(images, chosen, augment=spec, seed=seed, epoch=epoch, view=view)
            if view in STRONG_VIEWS:
                images = jitter_and_cut(images, chosen, seed=seed, epoch=epoch, view=view)
        return images

    def to(self, device: torch.device | str) -> ArrayDataset:
        """Return a copy of the dataset with its images on a device, where batches are then made."""
        return replace(self, images=self.raw(self.index).to(device), rows=None)

    def fingerprint(self, *, labels: bool = True) -> str:
        """Return the SHA-256 of the dataset's content: images, normalisation and, by default, labels."""
        head: dict[str, Any] = {"shape": [len(self), *self.shape], "mean": list(self.mean), "std": list(self.std)}
        head |= self._inputs_head()
        digest = hashlib.sha256(json.dumps(head).encode())
        for block in self.index.split(4096):
            digest.update(self.raw(block).cpu().contiguous().numpy().data)
        if labels:
            digest.update(b"none" if self.labels is None else self.labels.contiguous().numpy().data)
            digest.update(str(self.classes).encode())
        return digest.hexdigest()


def keep_labels(dataset: Some, per_class: int, seed: int = 0) -> Some:
    """Keep `per_class` labels of each class and set the others to -1; all samples stay.

    With the same seed, the labels kept for a smaller `per_class` are among those kept for a larger one.

    Args:
        dataset: a dataset with labels.
        per_class: labels to keep for each class.
        seed: seed of the random choice.

    Returns:
        A dataset of the same samples with fewer labels.

    Raises:
        ValueError: if the dataset has no labels, or a class has too few.

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
    labelled = dataset.labels[dataset.labels >= 0]
    counts = labelled.bincount(minlength=dataset.classes or 0)
    # If the number of classes is not declared, numbers that never occur are not classes.
    counts = counts if dataset.classes is not None else torch.where(counts == 0, len(labelled), counts)
    if len(labelled) == 0 or int(counts.min()) < per_class:
        least = f"only {int(counts.min())} in class {int(counts.argmin())}" if len(labelled) else "no label at all"
        fail("keep_labels", "per_class", "at most the number of labels of every class", f"{per_class} with {least}")
    chosen = split.first_of_each(dataset.labels, per_class, seed=seed, stream=split.LABELS)
    labels = torch.full_like(dataset.labels, -1)
    labels[chosen] = dataset.labels[chosen]
    return cast(Some, replace(cast(Any, dataset), labels=labels))  # a frozen dataclass, as every one is
