"""`ImageDataset`, the abstract base of both datasets: labels, normalisation, and bytes drawn a batch at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from congruence.core.check import COUNT, class_labels, fail, hyperparameters, shape
from congruence.data.augment.crops import Augment, normalize
from congruence.data.augment.photos import PhotoAugment

Indices = Tensor | npt.NDArray[Any] | Sequence[int]
Spec = Augment | PhotoAugment


class ImageDataset(Dataset[tuple[Tensor, int]], ABC):
    """A map-style dataset of pairs (normalised float32 image, label), read a whole batch at a time.

    `ArrayDataset` holds its images in one array, `FileDataset` decodes them when they are asked for; everything that
    takes the one takes the other. Both are frozen dataclasses with these fields.
    """

    labels: Tensor | None
    classes: int | None
    mean: Sequence[float]
    std: Sequence[float]
    name: str
    augment: Spec
    class_names: tuple[str, ...]
    rows: Tensor | None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""

    @property
    @abstractmethod
    def in_memory(self) -> bool:
        """Whether batches are quicker made than sent from another process."""

    @property
    @abstractmethod
    def held(self) -> int:
        """How many images there are before `rows` are chosen."""

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
        """Return what `batch` does as bytes, before it is normalised: uint8 [B, C, H, W]."""

    @abstractmethod
    def check_augment(self, augment: Spec | bool | None) -> None:
        """Raise a ValueError where these images cannot be augmented so."""

    @abstractmethod
    def fingerprint(self, *, labels: bool = True) -> str:
        """Return a SHA-256 of what the dataset yields."""

    def _check(self, channels: int) -> None:
        kind = type(self).__name__
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != channels or (name == "std" and min(values) <= 0):
                fail(kind, name, f"{channels} numbers{' > 0' if name == 'std' else ''}, one a channel", values)
            object.__setattr__(self, name, values)
        if self.classes is not None:
            hyperparameters(kind, {"classes": COUNT}, classes=self.classes)
        if self.labels is not None:
            object.__setattr__(self, "labels", self._checked_labels(kind, torch.as_tensor(self.labels)))

    def _checked_labels(self, kind: str, labels: Tensor) -> Tensor:
        class_labels(kind, labels=labels)
        if len(labels) != len(self):
            fail(kind, "labels", f"as many as there are images ({len(self)})", len(labels))
        low, high = (int(labels.min()), int(labels.max())) if len(labels) else (-1, -1)
        if low < -1 or (self.classes is not None and high >= self.classes):
            top = "" if self.classes is None else f" and below {self.classes}"
            fail(kind, "labels", f"-1 (unknown) or from 0 on{top}", f"values from {low} to {high}")
        return labels.to("cpu", torch.int64)

    def __len__(self) -> int:
        return self.held if self.rows is None else len(self.rows)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self)} images {self.shape}, classes={self.classes})"

    @property
    def index(self) -> Tensor:
        """The samples' positions 0 … N-1: a subset counts its own."""
        return torch.arange(len(self))

    def _positions(self, indices: Indices) -> Tensor:
        chosen, kind = torch.as_tensor(indices, device="cpu"), type(self).__name__
        if chosen.numel() == 0:
            return torch.zeros(0, dtype=torch.int64)
        if chosen.dim() != 1 or chosen.is_floating_point() or chosen.dtype == torch.bool:
            fail(kind, "indices", "a 1-D list of integers", f"{chosen.dtype} of shape {shape(chosen)}")
        if int(chosen.min()) < 0 or int(chosen.max()) >= len(self):
            span = f"{int(chosen.min())} to {int(chosen.max())}"
            raise IndexError(f"`{kind}`: `indices` must be in [0, {len(self)}), got {span}.")
        return chosen.to(torch.int64)

    def _rows(self, chosen: Tensor) -> Tensor:
        return chosen if self.rows is None else self.rows[chosen]

    def raw(self, indices: Indices) -> Tensor:
        """Return the bytes of some images as they are evaluated: a new uint8 tensor [B, C, H, W]."""
        return self.drawn(indices)

    def batch(
        self,
        indices: Indices,
        *,
        epoch: int = 0,
        seed: int = 0,
        augment: Spec | bool | None = False,
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
            augment: what is done, True for the dataset's own, False or None for nothing.
            view: the view's name; views draw independently, "clean" is never augmented, and "strong" has
                changed light and colours and a square cut out besides (`congruence.data.augment.strong`).
            device: where the result is; bytes are moved, not floats.

        Returns:
            A new tensor on `device`.
        """
        drawn = self.drawn(indices, epoch=epoch, seed=seed, augment=augment, view=view, device=device)
        return normalize(drawn, self.mean, self.std)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Return several samples at once; torch's own DataLoader calls this."""
        positions = [index + len(self) if index < 0 else index for index in indices]
        labels = [-1] * len(positions) if self.labels is None else self.labels[self._positions(positions)].tolist()
        return list(zip(self.batch(positions).unbind(0), labels, strict=True))

    def subset(self, indices: Indices) -> Self:
        """Return the dataset of some samples, in the order given, without copying images; positions count from 0."""
        chosen = self._positions(indices)
        labels = None if self.labels is None else self.labels[chosen]
        # Both are frozen dataclasses, which an abstract base cannot say.
        return cast(Self, replace(cast(Any, self), rows=self._rows(chosen), labels=labels))


def byte_moments(blocks: Any, channels: int) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel over [0, 1], from exact sums; a channel that never changes has deviation 1.

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
