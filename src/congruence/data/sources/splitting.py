"""From what a source read to datasets: which images each part takes, and their mean and deviation."""

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
from congruence.data.datasets.decode import is_grey
from congruence.data.datasets.files import FileDataset
from congruence.data.datasets.images import ImageDataset, Spec, byte_moments
from congruence.data.sources.store import Arrays, Files, Part, Tree

SAMPLED = 1000  # training images from which mean and deviation of a stream are taken


class Wanted(NamedTuple):
    """What `load` was asked to leave out or to hold out; see there. The last `unseen` of `classes` are for testing."""

    seed: int
    test: int | float
    validation: int | float
    train_size: int | None
    classes: int | None
    unseen: int = 0


class Look(NamedTuple):
    """What `load` was asked to make of images in files; `size` is known wherever they stay there."""

    size: Pair | None
    resize: int | Pair | None


def _count(part: Part | Files) -> int:
    return len(part.files) if isinstance(part, Files) else len(part.images)


def _labels(part: Part | Files) -> Tensor:
    return torch.full((_count(part),), -1) if part.labels is None else torch.from_numpy(np.array(part.labels))


def _held_out(argument: str, wanted: int | float, total: int) -> int:
    """Turn a number or a fraction into a number of images that leaves some to train on."""
    fraction = isinstance(wanted, float)
    count = round(wanted * total) if fraction else wanted
    if isinstance(wanted, bool) or not isinstance(count, int) or not 0 <= count < total or (fraction and wanted >= 1):
        fail("load", argument, f"a number of images below {total} or a fraction below 1.0", wanted)
    return count


def renumbered(content: Arrays | Tree, names: tuple[str, ...], wanted: Wanted) -> Arrays | Tree:
    """Give the classes that are never trained on the last numbers; their images stay where they are.

    Raises:
        ValueError: in a sentence about `load`, where the classes of the images are not known.
    """
    if not wanted.unseen:
        return content
    if content.train.labels is None or (content.test is not None and content.test.labels is None):
        fail("load", "test_classes", "None for images without labels", wanted.unseen)
    order = split.new_order(wanted.classes or len(names), wanted.unseen, seed=wanted.seed)
    numbers = np.arange(len(names))
    numbers[order] = np.arange(len(order))
    parts: dict[str, Any] = {}
    for part in ("train", "test", "validation"):
        held = getattr(content, part)
        if held is not None and held.labels is not None:
            parts[part] = held._replace(labels=np.where(held.labels < 0, held.labels, numbers[held.labels]))
    kept = (*(names[number] for number in order), *names[len(order) :])
    return content._replace(**parts, class_names=kept)


def rows_of(content: Arrays | Tree, wanted: Wanted) -> dict[str, Tensor]:
    """Say which rows each part takes; parts held out take rows of the training images.

    Raises:
        ValueError: in a sentence about `load`, where numbers do not fit.
    """
    labels = _labels(content.train)
    seen = None if wanted.classes is None else wanted.classes - wanted.unseen
    rest = _of_classes(labels, seen)
    total = len(rest)
    rows: dict[str, Tensor] = {}
    for part, given, share, stream in (
        ("test", content.test, wanted.test, split.TEST),
        ("validation", content.validation, wanted.validation, split.VALIDATION),
    ):
        if part == "test" and wanted.unseen and seen is not None:
            held = labels if given is None else _labels(given)
            rows[part] = _of_classes(held, wanted.classes, first=seen)
            continue
        if given is not None:
            rows[part] = _of_classes(_labels(given), seen)
            continue
        count = _held_out(part, share, total)
        if count >= len(rest):
            fail("load", part, f"fewer than the {len(rest)} images left to train on", count)
        chosen, kept = split.stratified(labels[rest], count, seed=wanted.seed, stream=stream)
        rows[part], rest = rest[chosen], rest[kept]
    if wanted.train_size is not None:
        hyperparameters("load", {"train_size": COUNT}, train_size=wanted.train_size)
        if wanted.train_size > len(rest):
            fail("load", "train_size", f"at most the {len(rest)} training images", wanted.train_size)
        taken = split.stratified(labels[rest], wanted.train_size, seed=wanted.seed, stream=split.TRAIN_SIZE)[0]
        rest = rest[taken]
    return {"train": rest, "validation": rows["validation"], "test": rows["test"]}


def _of_classes(labels: Tensor, classes: int | None, *, first: int | None = None) -> Tensor:
    kept = torch.ones_like(labels, dtype=torch.bool) if classes is None else labels < classes
    return (kept if first is None else kept & (labels >= first)).nonzero()[:, 0]


def made(
    content: Arrays | Tree,
    rows: dict[str, Tensor],
    look: Look,
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
        content: what was read.
        rows: of `rows_of`.
        look: how files are decoded.
        seed: of the choice of images that mean and deviation are taken from.
        moments: mean and deviation of each channel, None for those of the training part.
        name: of the source.
        augment: the datasets' own.
        class_names: of the classes that are kept.
        unseen: how many of them, the last, are the test part's alone.
    """
    about: dict[str, Any] = {"classes": None, "augment": augment}
    if isinstance(content, Tree):
        sample = _sampled(content.train, rows["train"], seed)
        about |= {"size": look.size, "resize": look.resize, "grey": _grey(content, sample)}
        about["mean"], about["std"] = moments or _sample_moments(content, sample, about)
    else:
        about["mean"], about["std"] = moments or _moments(content.train, rows["train"])
    parts: dict[str, ImageDataset] = {}
    for part, kept in rows.items():
        held: Part | Files = getattr(content, part) or content.train
        # Labels are chosen before they are checked: those of classes left out are not among the classes.
        labels = None if held.labels is None else _labels(held)[kept]
        names = class_names if part == "test" else class_names[: len(class_names) - unseen]
        about |= {"classes": len(names) or None, "class_names": names}
        about |= {"name": f"{name}/{part}", "rows": None if len(kept) == _count(held) else kept}
        if isinstance(held, Part):
            parts[part] = ArrayDataset(held.images, labels, **about)
        elif isinstance(content, Tree):
            parts[part] = FileDataset(content.root, held.files, labels, **about)
    return parts


def _moments(train: Part, rows: Tensor) -> tuple[list[float], list[float]]:
    return byte_moments((train.images[block.numpy()] for block in rows.split(2048)), train.images.shape[1])


def _sampled(train: Files, rows: Tensor, seed: int) -> Tensor:
    """Choose up to `SAMPLED` training images, each class in proportion."""
    chosen = split.stratified(_labels(train)[rows], min(SAMPLED, len(rows)), seed=seed, stream=split.MOMENTS)[0]
    return rows[chosen]


def _grey(tree: Tree, sample: Tensor) -> bool:
    if tree.grey is not None:
        return tree.grey
    return all(is_grey(tree.root / tree.train.files[row]) for row in sample.tolist())


def _sample_moments(tree: Tree, sample: Tensor, about: dict[str, Any]) -> tuple[list[float], list[float]]:
    channels = 1 if about["grey"] else 3
    bare = {**about, "mean": [0.0] * channels, "std": [1.0] * channels, "classes": None, "rows": sample}
    images = FileDataset(tree.root, tree.train.files, None, **bare)
    return byte_moments((images.raw(block).numpy() for block in images.index.split(64)), channels)
