"""`BatchDataset`, the abstract base of datasets that give whole batches: labels, positions, subsets, and items."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self, cast

import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from congruence.core.check import COUNT, class_labels, fail, hyperparameters, shape
from congruence.core.devices import on_tensors
from congruence.core.inputs import STUDENT
from congruence.data.augment.crops import Augment
from congruence.data.augment.photos import PhotoAugment
from congruence.models.inputs import ImageInput, TextInput

Indices = Tensor | npt.NDArray[Any] | Sequence[int]
Spec = Augment | PhotoAugment


class BatchDataset(Dataset[tuple[Any, int]], ABC):
    """A map-style dataset of pairs (inputs, label) that `loader` reads a whole batch at a time.

    Every one is a frozen dataclass with these fields.
    """

    labels: Tensor | None
    classes: int | None
    name: str
    class_names: tuple[str, ...]
    rows: Tensor | None

    @property
    @abstractmethod
    def in_memory(self) -> bool:
        """Whether making a batch is faster than sending it from another process."""

    @property
    def told(self) -> bool:
        """Whether `fingerprint` covers the whole content."""
        return True

    @property
    @abstractmethod
    def held(self) -> int:
        """The number of samples before `rows` are selected."""

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
    ) -> Any:
        """Return a batch in the form in which a worker sends it, before `prepared`."""

    @abstractmethod
    def prepared(self, drawn: Any) -> Any:
        """Turn the result of `drawn` into the models' inputs, on its device."""

    @abstractmethod
    def check_augment(self, augment: Spec | bool | None) -> None:
        """Raise a ValueError if these samples do not support the augmentation."""

    @abstractmethod
    def check_views(self, views: Sequence[str]) -> None:
        """Raise a ValueError if these samples do not have such views."""

    @abstractmethod
    def varies(self, augment: Spec | bool | None) -> bool:
        """Whether a sample with this augmentation differs between epochs."""

    @abstractmethod
    def model_input(self, model: str = STUDENT, kind: str = STUDENT) -> ImageInput | TextInput | None:
        """Return how a model takes these samples, None if unknown; models are named as in `congruence.Inputs`."""

    @abstractmethod
    def for_models(self, **inputs: Any) -> Self:
        """Return a dataset whose batches are `congruence.Inputs`, with the samples as each model takes them."""

    @abstractmethod
    def fingerprint(self, *, labels: bool = True) -> str:
        """Return a SHA-256 of the dataset's content."""

    def _check_labels(self, samples: str) -> None:
        kind = type(self).__name__
        if self.classes is not None:
            hyperparameters(kind, {"classes": COUNT}, classes=self.classes)
        if self.labels is None:
            return
        labels = torch.as_tensor(self.labels)
        class_labels(kind, labels=labels)
        if len(labels) != len(self):
            fail(kind, "labels", f"as many as there are {samples} ({len(self)})", len(labels))
        low, high = (int(labels.min()), int(labels.max())) if len(labels) else (-1, -1)
        if low < -1 or (self.classes is not None and high >= self.classes):
            top = "" if self.classes is None else f" and below {self.classes}"
            fail(kind, "labels", f"-1 (unknown) or from 0 on{top}", f"values from {low} to {high}")
        object.__setattr__(self, "labels", labels.to("cpu", torch.int64))

    def __len__(self) -> int:
        return self.held if self.rows is None else len(self.rows)

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

    def batch(
        self,
        indices: Indices,
        *,
        epoch: int = 0,
        seed: int = 0,
        augment: Spec | bool | None = False,
        view: str = "main",
        device: torch.device | str | None = None,
    ) -> Any:
        """Return the models' inputs for some samples, augmented as a pure function of (seed, epoch, position, view).

        Shape:
            indices [B]; for images float32 [B, C, H, W], for texts a mapping from argument names to integers [B, L];
            `congruence.Inputs` of these if the dataset says how each model takes them.

        Args:
            indices: positions in this dataset.
            epoch: counted from 0.
            seed: seed of the run.
            augment: the augmentation, True for the dataset's own, False or None for none.
            view: the view's name; views draw independently, "clean" is never augmented, and "strong" additionally has
                changed brightness and colours and a cut-out square (`congruence.data.augment.strong`).
            device: device of the result; images are moved as bytes, not floats.

        Returns:
            New tensors on `device`.
        """
        return self.prepared(self.drawn(indices, epoch=epoch, seed=seed, augment=augment, view=view, device=device))

    def example(self) -> Any:
        """Return the models' inputs for a few samples, to try the models on."""
        return self.batch(range(min(2, len(self))))

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, int]]:
        """Return several samples at once; torch's DataLoader calls this."""
        positions = [index + len(self) if index < 0 else index for index in indices]
        labels = [-1] * len(positions) if self.labels is None else self.labels[self._positions(positions)].tolist()
        batch = self.batch(positions)
        if isinstance(batch, Tensor):
            return list(zip(batch.unbind(0), labels, strict=True))
        return [(on_tensors(operator.itemgetter(at), batch), label) for at, label in enumerate(labels)]

    def subset(self, indices: Indices) -> Self:
        """Return the dataset of some samples, in the order given, without copying them; positions count from 0."""
        chosen = self._positions(indices)
        labels = None if self.labels is None else self.labels[chosen]
        # Each subclass is a frozen dataclass, which an abstract base cannot express.
        return cast(Self, replace(cast(Any, self), rows=self._rows(chosen), labels=labels))
