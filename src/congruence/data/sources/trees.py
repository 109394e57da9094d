"""Readers of published trees of image files: ImageNet, Tiny ImageNet, CUB-200; each lists files without decoding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from congruence.core.files import absent, damaged
from congruence.data.sources.folder import SUFFIXES, class_folders, list_part
from congruence.data.sources.store import Files, Tree


def list_imagenet(folder: Path) -> Tree:
    """List train/CLASS/* and val/CLASS/*, the published validation images in folders of their class, as test part.

    Labels number the classes in alphabetical order, as in the usual pretrained networks.
    """
    train, val = folder / "train", folder / "val"
    for part in (train, val):
        if not part.is_dir():
            raise ValueError(f"The folder '{part}' is absent.")
    classes = class_folders(train)
    parts = [list_part(folder, part, classes) for part in (train, val)]
    for part, files in zip((train, val), parts, strict=True):
        if files.labels is None or not files.files:
            suffixes = ", ".join(sorted(SUFFIXES))
            raise ValueError(f"The folder '{part}' holds no image in a folder of its class (of {suffixes}).")
    return Tree(folder, parts[0], parts[1], class_names=classes)


def list_tiny_imagenet(folder: Path) -> Tree:
    """List `tiny-imagenet-200`: train/CLASS/images/*.JPEG, and val/images/* with val/val_annotations.txt as test part.

    The labels of its own test images were never published. Labels count the classes in alphabetical order.
    """
    train = folder / "train"
    classes = tuple(sorted(path.name for path in train.iterdir() if path.is_dir())) if train.is_dir() else ()
    if not classes:
        raise absent(train)
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = sorted((train / name / "images").glob("*.JPEG"))
        if not images:
            raise ValueError(f"The folder '{train / name / 'images'}' holds no image (*.JPEG).")
        paths += images
        labels += [label] * len(images)
    rows = table_rows(folder / "val" / "val_annotations.txt", 2)
    unknown = sorted({name for _, name in rows} - set(classes))
    if unknown:
        raise damaged(folder / "val" / "val_annotations.txt", f"its class '{unknown[0]}' has no training images")
    numbers = {name: label for label, name in enumerate(classes)}
    test = _part(folder, [folder / "val" / "images" / file for file, _ in rows], [numbers[name] for _, name in rows])
    return Tree(folder, _part(folder, paths, labels), test, class_names=classes)


def list_cub200(folder: Path) -> Tree:
    """List `CUB_200_2011`: images.txt, image_class_labels.txt, train_test_split.txt and images/.

    Classes are those that occur, in the order of their numbers, so that a part of the tree (such as the first 30
    classes of the retrieval papers) can be read too; a class is named after its folder.
    """
    files = dict(table_rows(folder / "images.txt", 2))
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
        parts.append(_part(folder, paths, [order.index(numbers[image]) for image in images]))
    return Tree(folder, parts[0], parts[1], class_names=tuple(names[number] for number in order))


def table_rows(path: Path, columns: int) -> list[list[str]]:
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
    rows = dict(table_rows(path, 2))
    missing = [image for image in images if not rows.get(image, "").isdecimal()]
    if missing:
        raise damaged(path, f"it has no number for the image {missing[0]} of images.txt")
    return {image: int(rows[image]) for image in images}


def _part(root: Path, paths: Sequence[Path], labels: Sequence[int]) -> Files:
    return Files(tuple(str(path.relative_to(root)) for path in paths), np.array(labels, dtype=np.int64))
