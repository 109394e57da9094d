"""Compares an exported file with its model, on real samples and in batches of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from congruence.core.devices import row_count, take_rows
from congruence.core.inputs import STUDENT, inputs_of
from congruence.data.datasets.batched import BatchDataset
from congruence.evaluation.exporting.formats import Run
from congruence.evaluation.exporting.graph import CLASSES

TOLERANCE = 1e-4  # of a number; of larger ones than 1, of the largest of its output
SIZES = (1, 2, 7, 64)
MOST = 10_000  # samples that are compared


@dataclass(frozen=True)
class Samples:
    """Samples that an export is compared on.

    Args:
        what: what messages call them: "the test data".
        count: number of samples.
        take: a function from positions int64 [B] to a batch of inputs.
        labels: int64 [count], -1 if unknown; None without labels.
    """

    what: str
    count: int
    take: Callable[[Tensor], Any]
    labels: Tensor | None = None

    @classmethod
    def of_dataset(cls, what: str, dataset: BatchDataset) -> Samples:
        """Return the samples of a dataset as a student takes them."""
        labels = None if dataset.labels is None else torch.as_tensor(dataset.labels)
        return cls(what, len(dataset), lambda at: inputs_of(dataset.batch(at), STUDENT), labels)

    @classmethod
    def of_batch(cls, what: str, inputs: Any) -> Samples:
        """Return the samples of one batch of inputs."""
        count = row_count(inputs) or 0
        return cls(what, count, lambda at: take_rows(inputs, at, count))

    def spread(self, most: int) -> Tensor:
        """Return the positions of at most the given number of samples, evenly spread."""
        return torch.linspace(0, self.count - 1, min(most, self.count)).round().long()


@dataclass(frozen=True)
class Sameness:
    """The result of comparing an exported file with its model.


    Args:
        on: description of the samples.
        samples: number of samples.
        batch_sizes: the batch sizes that were tried.
        largest_difference: largest difference between the file's and the model's numbers, by output.
        agreement: fraction of samples for which both predict the same class; None without classes.
        accuracy: the model's accuracy on the labelled samples; None without labels.
        exported_accuracy: the file's accuracy.
        how: how the file was quantised; "" if it was not.
    """

    on: str
    samples: int
    batch_sizes: tuple[int, ...]
    largest_difference: dict[str, float]
    agreement: float | None = None
    accuracy: float | None = None
    exported_accuracy: float | None = None
    how: str = ""


def compare_runs(model: Run, file: Run, samples: Samples) -> tuple[Sameness, bool]:
    """Run a model and its file on the same samples, and compare their outputs.

    A number may differ by `TOLERANCE`, times the largest number of its output if that exceeds 1; the class must be the
    same except for ties. NaN only equals NaN.

    Raises:
        ValueError: if the file gives other shapes.

    Example:
        >>> same = lambda inputs: {"logits": inputs * 1.0}
        >>> found, alike = compare_runs(same, same, Samples.of_batch("the example", torch.rand(5, 3)))
        >>> found.batch_sizes, found.largest_difference, found.agreement, alike
        ((1, 2, 7, 64), {'logits': 0.0}, 1.0, True)
    """
    largest: dict[str, float] = {}
    alike = True
    classes: list[tuple[Tensor, Tensor, Tensor]] = []
    for at in _batches(samples.count):
        inputs = samples.take(at)
        ours, theirs = model(inputs), file(inputs)
        for name, value in ours.items():
            other = theirs[name].to(value.dtype)
            if other.shape != value.shape:
                raise ValueError(
                    f"The exported file gives '{name}' {list(other.shape)} for a batch of {len(at)}, the model "
                    f"{list(value.shape)}: it cannot be used."
                )
            same = (value == other) | (value.isnan() & other.isnan())
            apart = torch.where(same, 0.0, (value - other).abs().double()).nan_to_num(float("inf"))
            size = value.detach().abs().double().nan_to_num(0.0, posinf=0.0).max() if value.numel() else 0.0
            off = float(apart.max()) if apart.numel() else 0.0
            largest[name] = max(largest.get(name, 0.0), off)
            alike = alike and off <= TOLERANCE * max(1.0, float(size))
            if name in CLASSES and value.dim() == 2:
                classes.append((at, value.argmax(1), other.argmax(1)))
                alike = alike and not _flipped(value, classes[-1][2])
    found = Sameness(samples.what, min(samples.count, MOST), SIZES, largest, *_of_classes(classes, samples.labels))
    return found, alike


def _flipped(scores: Tensor, classes: Tensor) -> bool:
    """Whether a file has another class than the model where that is no tie: small scores are apart by little."""
    best = scores.max(1).values
    lost = best - scores.gather(1, classes[:, None])[:, 0]
    return bool((lost > TOLERANCE * scores.abs().max(1).values).any())


def _batches(count: int) -> Iterator[Tensor]:
    """Yield positions in batches of each size, then all that are left; few samples are taken again and again."""
    start = 0
    for size in SIZES:
        yield torch.arange(start, start + size) % count
        start += size
    if start < count:
        yield from torch.arange(start, min(count, MOST)).split(SIZES[-1])


def _of_classes(
    classes: list[tuple[Tensor, Tensor, Tensor]], labels: Tensor | None
) -> tuple[float | None, float | None, float | None]:
    """Return agreement and both accuracies, each sample counted once."""
    if not classes:
        return None, None, None
    at, ours, theirs = (torch.cat(each) for each in zip(*classes, strict=True))
    once = torch.zeros(int(at.max()) + 1, dtype=torch.int64)
    once[at] = torch.arange(len(at))
    ours, theirs = ours[once], theirs[once]
    agreement = _share(ours == theirs)
    if labels is None:
        return agreement, None, None
    known = labels[: len(once)]
    ours, theirs, known = ours[known >= 0], theirs[known >= 0], known[known >= 0]
    if not len(known):
        return agreement, None, None
    return agreement, _share(ours == known), _share(theirs == known)


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
