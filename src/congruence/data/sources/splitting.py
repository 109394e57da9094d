"""The second half of `load`: from a reader's result to the datasets of three parts.

`put_unseen_classes_last` and `rows_by_part` choose the images of each part, `make_datasets` makes the datasets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from congruence.core.check import COUNT, fail, hyperparameters
from congruence.data.augment.photos import Pair
from congruence.data.datasets import split
from congruence.data.datasets.arrays import ArrayDataset
from congruence.data.datasets.batched import Spec
from congruence.data.datasets.decode import is_grey
from congruence.data.datasets.files import FileDataset
from congruence.data.datasets.images import ImageDataset, byte_moments
from congruence.data.datasets.packed import place
from congruence.data.datasets.texts import TextDataset
from congruence.data.sources.store import Arrays, Files, Lines, Part, Texts, Tree

Content = Arrays | Tree | Lines
SAMPLED = 1000  # training images from which mean and deviation of a stream are taken


class SplitRequest(NamedTuple):
    """What `load` is to leave out or hold out, see `load`. The last `unseen` of `classes` are for testing."""

    seed: int
    test: int | float
    validation: int | float
    train_size: int | None
    classes: int | None
    unseen: int = 0


class DecodeOptions(NamedTuple):
    """How `load` is to decode image files; `size` is always given if images stay in their files."""

    size: Pair | None
    resize: int | Pair | None


def _count(part: Part | Files | Texts) -> int:
    return len(part[0])


def _labels(part: Part | Files | Texts) -> Tensor:
    return torch.full((_count(part),), -1) if part.labels is None else torch.from_numpy(np.array(part.labels))


def _held_out(argument: str, share: int | float, total: int) -> int:
    """Turn a number or a fraction into a number of images that leaves some for training."""
    fraction = isinstance(share, float)
    count = round(share * total) if fraction else share
    if isinstance(share, bool) or not isinstance(count, int) or not 0 <= count < total or (fraction and share >= 1):
        fail("load", argument, f"a number of images below {total} or a fraction below 1.0", share)
    return count


def put_unseen_classes_last(content: Content, names: tuple[str, ...], request: SplitRequest) -> Content:
    """Renumber the classes so that those held out of training come last; images are not moved.


    Raises:
        ValueError: naming `load`, if the classes of the images are not known.
    """
    if not request.unseen:
        return content
    if content.train.labels is None or (content.test is not None and content.test.labels is None):
        fail("load", "test_classes", "None for images without labels", request.unseen)
    order = split.new_order(request.classes or len(names), request.unseen, seed=request.seed)
    numbers = np.arange(len(names))
    numbers[order] = np.arange(len(order))
    parts: dict[str, Any] = {}
    for name in ("train", "test", "validation"):
        part = getattr(content, name)
        if part is not None and part.labels is not None:
            parts[name] = part._replace(labels=np.where(part.labels < 0, part.labels, numbers[part.labels]))
    return content._replace(**parts, class_names=(*(names[number] for number in order), *names[len(order) :]))


def rows_by_part(content: Content, request: SplitRequest) -> dict[str, Tensor]:
    """Return the rows of each part; held-out parts take rows of the training images.


    Raises:
        ValueError: naming `load`, if numbers do not fit.
    """
    labels = _labels(content.train)
    seen = None if request.classes is None else request.classes - request.unseen
    rest = _of_classes(labels, seen)
    total = len(rest)
    rows: dict[str, Tensor] = {}
    for part, given, share, stream in (
        ("test", content.test, request.test, split.TEST),
        ("validation", content.validation, request.validation, split.VALIDATION),
    ):
        if part == "test" and request.unseen and seen is not None:
            test_labels = labels if given is None else _labels(given)
            rows[part] = _of_classes(test_labels, request.classes, first=seen)
            continue
        if given is not None:
            rows[part] = _of_classes(_labels(given), seen)
            continue
        count = _held_out(part, share, total)
        if count >= len(rest):
            fail("load", part, f"fewer than the {len(rest)} images left to train on", count)
        chosen, others = split.stratified(labels[rest], count, seed=request.seed, stream=stream)
        rows[part], rest = rest[chosen], rest[others]
    if request.train_size is not None:
        hyperparameters("load", {"train_size": COUNT}, train_size=request.train_size)
        if request.train_size > len(rest):
            fail("load", "train_size", f"at most the {len(rest)} training images", request.train_size)
        taken = split.stratified(labels[rest], request.train_size, seed=request.seed, stream=split.TRAIN_SIZE)[0]
        rest = rest[taken]
    return {"train": rest, "validation": rows["validation"], "test": rows["test"]}


def _of_classes(labels: Tensor, classes: int | None, *, first: int | None = None) -> Tensor:
    """Return the rows whose label is below `classes` and at least `first`; None means no bound, and -1 is below any."""
    inside = torch.ones_like(labels, dtype=torch.bool) if classes is None else labels < classes
    return (inside if first is None else inside & (labels >= first)).nonzero()[:, 0]


def make_datasets(
    content: Arrays | Tree,
    rows: dict[str, Tensor],
    options: DecodeOptions,
    *,
    seed: int,
    moments: tuple[Sequence[float], Sequence[float]] | None,
    name: str,
    augment: Spec,
    class_names: tuple[str, ...],
    unseen: int = 0,
) -> dict[str, ImageDataset]:
    """Make the datasets of all parts; those of a `Tree` are decoded when they are asked for.

    Args:
        content: the reader's result.
        rows: the result of `rows_by_part`.
        options: how files are decoded.
        seed: seed for choosing the images from which mean and deviation are computed.
        moments: mean and deviation of each channel, None for those of the training part.
        name: the source's name.
        augment: the datasets' default augmentation.
        class_names: names of the classes that are kept.
        unseen: how many of the last classes are only in the test part.
    """
    about: dict[str, Any] = {"classes": None, "augment": augment}
    if isinstance(content, Tree):
        sample = _sampled(content.train, rows["train"], seed)
        about |= {"size": options.size, "resize": options.resize, "grey": _grey(content, sample)}
        about["mean"], about["std"] = moments or _sample_moments(content, sample, about)
    else:
        about["mean"], about["std"] = moments or _moments(content.train, rows["train"])
    datasets: dict[str, ImageDataset] = {}
    for part, chosen in rows.items():
        origin: Part | Files = getattr(content, part) or content.train  # a held-out part is among the training images
        # Labels are selected before they are checked, since those of removed classes would be out of range.
        labels = None if origin.labels is None else _labels(origin)[chosen]
        names = class_names if part == "test" else class_names[: len(class_names) - unseen]
        about |= {"classes": len(names) or None, "class_names": names}
        about |= {"name": f"{name}/{part}", "rows": None if len(chosen) == _count(origin) else chosen}
        if isinstance(origin, Part):
            datasets[part] = ArrayDataset(origin.images, labels, **about)
        elif isinstance(content, Tree):
            datasets[part] = FileDataset(content.root, origin.files, labels, **about)
    return datasets


def make_text_datasets(
    content: Lines, rows: dict[str, Tensor], *, name: str, class_names: tuple[str, ...], unseen: int = 0
) -> dict[str, TextDataset]:
    """Make the datasets of all parts of a file of texts; see `make_datasets`."""
    datasets: dict[str, TextDataset] = {}
    for part, chosen in rows.items():
        texts = [content.train.texts[row] for row in chosen.tolist()]
        names = class_names if part == "test" else class_names[: len(class_names) - unseen]
        labels = None if content.train.labels is None else _labels(content.train)[chosen]
        datasets[part] = TextDataset(
            texts, labels, classes=len(names) or None, class_names=names, name=f"{name}/{part}"
        )
    return datasets


def _moments(train: Part, rows: Tensor) -> tuple[list[float], list[float]]:
    return byte_moments((train.images[block.numpy()] for block in rows.split(2048)), train.images.shape[1])


def _sampled(train: Files, rows: Tensor, seed: int) -> Tensor:
    """Choose up to `SAMPLED` training images, each class in proportion."""
    chosen = split.stratified(_labels(train)[rows], min(SAMPLED, len(rows)), seed=seed, stream=split.MOMENTS)[0]
    return rows[chosen]


def _grey(tree: Tree, sample: Tensor) -> bool:
    if tree.grey is not None:
        return tree.grey
    return all(is_grey(place(tree.root, tree.train.files, row)) for row in sample.tolist())


def _sample_moments(tree: Tree, sample: Tensor, about: dict[str, Any]) -> tuple[list[float], list[float]]:
    channels = 1 if about["grey"] else 3
    bare = {**about, "mean": [0.0] * channels, "std": [1.0] * channels, "classes": None, "rows": sample}
    images = FileDataset(tree.root, tree.train.files, None, **bare)
    return byte_moments((images.raw(block).numpy() for block in images.index.split(64)), channels)
