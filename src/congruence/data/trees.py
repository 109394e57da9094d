"""Published trees of image files: each read into one array, as a folder is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from congruence.data.folder import decoded
from congruence.data.formats import absent, damaged
from congruence.data.store import Arrays, Part


def read_tiny_imagenet(folder: Path) -> Arrays:
    """Read `tiny-imagenet-200`: train/CLASS/images/*.JPEG, and val/images/* with val/val_annotations.txt as test part.

    The labels of its own test images were never published. Labels count the classes in alphabetical order.
    """
    train = folder / "train"
    classes = tuple(sorted(path.name for path in train.iterdir() if path.is_dir())) if train.is_dir() else ()
    if not classes:
        raise absent(train)
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted((train / name / "images").glob("*.JPEG"))
        if not found:
            raise ValueError(f"The folder '{train / name / 'images'}' holds no image (*.JPEG).")
        paths += found
        labels += [label] * len(found)
    listed = _table(folder / "val" / "val_annotations.txt", 2)
    unknown = sorted({name for _, name in listed} - set(classes))
    if unknown:
        raise damaged(folder / "val" / "val_annotations.txt", f"its class '{unknown[0]}' has no training images")
    held = [folder / "val" / "images" / file for file, _ in listed]
    return Arrays(_part(paths, labels), _part(held, [classes.index(name) for _, name in listed]), class_names=classes)


def read_cub200(folder: Path, size: int | tuple[int, int]) -> Arrays:
    """Read `CUB_200_2011`: images.txt, image_class_labels.txt, train_test_split.txt and images/, brought to `size`.

    Classes are those that occur, in the order of their numbers, so that a part of the tree (the first 30 classes of
    the retrieval papers) reads as itself; a name is that of the class's folder.
    """
    files = dict(_table(folder / "images.txt", 2))
    numbers = _by_image(folder / "image_class_labels.txt", files)
    trained = _by_image(folder / "train_test_split.txt", files)
    names = {number: Path(files[image]).parent.name for image, number in reversed(numbers.items())}
    order = sorted(names)
    parts = []
    for flag in (1, 0):
        images = [image for image in files if trained[image] == flag]
        if not images:
            raise damaged(folder / "train_test_split.txt", f"it gives no image the number {flag}")
        paths = [folder / "images" / files[image] for image in images]
        parts.append(_part(paths, [order.index(numbers[image]) for image in images], size))
    return Arrays(parts[0], parts[1], class_names=tuple(names[number] for number in order))


def _table(path: Path, columns: int) -> list[list[str]]:
    """Read the first columns of a text file of words."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf8").splitlines()]
    except FileNotFoundError:
        raise absent(path) from None
    except (OSError, UnicodeDecodeError):
        raise damaged(path, "it cannot be read as text") from None
    rows = [line for line in lines if line]
    short = [number for number, line in enumerate(lines, 1) if 0 < len(line) < columns]
    if short or not rows:
        raise damaged(path, f"its line {short[0]} has no {columns} columns" if short else "it is empty")
    return [row[:columns] for row in rows]


def _by_image(path: Path, images: dict[str, str]) -> dict[str, int]:
    """Read a number for each image of images.txt."""
    rows = dict(_table(path, 2))
    missing = [image for image in images if not rows.get(image, "").isdecimal()]
    if missing:
        raise damaged(path, f"it has no number for the image {missing[0]} of images.txt")
    return {image: int(rows[image]) for image in images}


def _part(paths: list[Path], labels: Sequence[int], size: int | tuple[int, int] | None = None) -> Part:
    return Part(decoded(paths, size), np.array(labels, dtype=np.int64))
