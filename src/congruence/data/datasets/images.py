"""`ImageDataset`, the abstract base of image datasets: batches of bytes that are then normalised."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor

from congruence.core.check import fail
from congruence.core.inputs import STUDENT, TEACHER, Inputs, inputs_of
from congruence.core.later import Later
from congruence.data.augment.crops import normalize
from congruence.data.datasets.batched import BatchDataset, Indices, Spec
from congruence.models.inputs import ImageInput


class ImageDataset(BatchDataset):
    """A map-style dataset of pairs (normalised float32 image, label), read a whole batch at a time.

    `ArrayDataset` holds its images in one array, `FileDataset` decodes them on demand; wherever one is accepted, the
    other is too. Both are frozen dataclasses with these fields. With `inputs`, a batch is `Inputs`: the same pixels,
    drawn once at the dataset's size, and then prepared for each model.
    """

    mean: Sequence[float]
    std: Sequence[float]
    augment: Spec
    inputs: Mapping[str, ImageInput] | None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images, before a model's own size."""

    @abstractmethod
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

    def _check(self, channels: int) -> None:
        kind = type(self).__name__
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != channels or (name == "std" and min(values) <= 0):
                fail(kind, name, f"{channels} numbers{' > 0' if name == 'std' else ''}, one a channel", values)
            object.__setattr__(self, name, values)
        self._check_labels("images")
        if self.inputs is not None:
            object.__setattr__(self, "inputs", self._checked_inputs(kind, channels))

    def _checked_inputs(self, kind: str, channels: int) -> dict[str, ImageInput]:
        given = self.inputs
        if not isinstance(given, Mapping) or not given:
            fail(kind, "inputs", "an ImageInput for each model, by its name", repr(given))
        for name, taken in given.items():
            if not isinstance(taken, ImageInput):
                fail(kind, "inputs", "an ImageInput for each model, by its name", f"{type(taken).__name__} as '{name}'")
            if not taken.takes(channels):
                wanted = f"for images of {channels} channel{'s' if channels > 1 else ''}"
                fail(kind, "inputs", wanted, f"{len(taken.mean)} in the mean of '{name}'")
        # All models get an entry: those not named take the images as the dataset has them.
        return dict.fromkeys((STUDENT, TEACHER), self.own_input) | dict(given)

    @property
    def own_input(self) -> ImageInput:
        """How a model takes these images by default: at their size, with the dataset's mean and std."""
        return ImageInput(tuple(self.mean), tuple(self.std))

    def for_models(self, **inputs: ImageInput) -> Self:
        """Return a dataset whose batches are `Inputs`: the same pixels, prepared for each model.


        Args:
            **inputs: an `ImageInput` by the model's name in the distiller, or by "student" for all students and
                "teacher" for all teachers without an entry. A model without an entry takes the images as the dataset
                has them.

        Raises:
            ValueError: if there is no entry, or one for another number of channels.

        Example:
            >>> from congruence.data import ArrayDataset, ImageInput
            >>> images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
            >>> data = ArrayDataset(images, None, classes=None, mean=[0.5], std=[0.5])
            >>> batch = data.for_models(teacher=ImageInput((0.0,), (1.0,), size=(8, 8))).batch([0, 1])
            >>> batch["teacher"].shape, batch["student"].shape
            (torch.Size([2, 1, 8, 8]), torch.Size([2, 1, 4, 4]))
        """
        return cast(Self, replace(cast(Any, self), inputs=inputs))

    def model_input(self, model: str = STUDENT, kind: str = STUDENT) -> ImageInput:
        """Return how a model takes these images."""
        return self.own_input if self.inputs is None else inputs_of(Inputs(**self.inputs), model, kind)

    def prepared(self, drawn: Tensor) -> Tensor | Inputs:
        """Turn bytes into the models' inputs; those of other models than "student" are made when they are asked for."""
        if self.inputs is None:
            return normalize(drawn, self.mean, self.std)
        entries: dict[ImageInput, Tensor | Later] = {}
        for name, taken in self.inputs.items():
            if name == STUDENT:
                entries[taken] = taken(drawn)
            elif taken not in entries:
                entries[taken] = Later(functools.partial(taken, drawn))
        return Inputs(**{name: entries[taken] for name, taken in self.inputs.items()})

    def check_views(self, views: Sequence[str]) -> None:
        """Images have any view."""

    def varies(self, augment: Spec | bool | None) -> bool:
        """Whether an image with this augmentation differs between epochs."""
        return bool(augment)

    def _inputs_head(self) -> dict[str, Any]:
        """Return the fingerprint's entry for the models' inputs: empty if they are the dataset's own."""
        if self.inputs is None:
            return {}
        return {"inputs": {name: taken.describe() for name, taken in sorted(self.inputs.items())}}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self)} images {self.shape}, classes={self.classes})"

    def raw(self, indices: Indices) -> Tensor:
        """Return the bytes of some images without augmentation: a new uint8 tensor [B, C, H, W]."""
        return self.drawn(indices)


def byte_moments(blocks: Any, channels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over [0, 1], from exact sums; a constant channel has deviation 1.

    Args:
        blocks: an iterable of uint8 arrays [B, C, H, W].
        channels: C.
    """
    total = np.zeros(channels, dtype=np.int64)
    squares, count = np.zeros_like(total), 0
    for images in blocks:
        total += images.sum((0, 2, 3), dtype=np.int64)
        squares += np.square(images, dtype=np.uint16).sum((0, 2, 3), dtype=np.int64)
        count += images.size // channels
    mean = total / count
    variance = squares / count - mean**2
    std = np.sqrt(np.where(variance > 0, variance, 255.0**2))
    return (mean / 255).tolist(), (std / 255).tolist()
