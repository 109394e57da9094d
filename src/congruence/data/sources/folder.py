"""The reader of any folder of images, one folder for each class: `list_folder` lists it, `decode_tree` decodes it."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from congruence.data.augment.photos import Pair
from congruence.data.datasets.decode import decoded, is_grey
from congruence.data.datasets.packed import place
from congruence.data.sources.store import Arrays, Files, Part, Tree

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"))
# In lower case; such folders are not classes, regardless of the case of their names.
PART_NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("val", "valid", "validation", "dev", "eval"),
}
LOG = logging.getLogger("congruence")


def _images(folder: Path) -> list[str]:
    """List the images in and below a folder, in the order of their paths' parts, by one walk without opening files.

    Links to folders are followed, but never back into a folder on the current path.
    """
    paths = []
    for directory, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not _leads_back(directory, name)]
        below = os.path.relpath(directory, folder)
        for name in files:
            if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
                paths.append(name if below == "." else os.path.join(below, name))
    return sorted(paths, key=lambda file: file.split(os.sep))


def _leads_back(directory: str, name: str) -> bool:
    """Whether a folder is a link to one of its parents, which would lead to an endless walk."""
    path = os.path.join(directory, name)
    if not os.path.islink(path):
        return False
    return os.path.realpath(path) in {os.path.realpath(above) for above in (Path(directory), *Path(directory).parents)}


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders in a folder, in order, without hidden ones."""
    return tuple(path.name for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith("."))


def list_part(root: Path, folder: Path, classes: Sequence[str]) -> Files:
    """List the images of one part in the order of `classes`, the training part's classes; paths are relative to `root`.


    Raises:
        ValueError: if there is no image, or a folder of another class.
    """
    if not classes:
        return Files(_image_paths(root, folder), None)
    unknown = sorted(set(class_folders(folder)) - set(classes))
    if unknown:
        raise ValueError(f"The folder '{folder / unknown[0]}' is a class that the training images do not have.")
    files = [_image_paths(root, folder / name) if (folder / name).is_dir() else () for name in classes]
    labels = np.repeat(np.arange(len(classes)), [len(some) for some in files])
    return Files(tuple(file for some in files for file in some), labels.astype(np.int64))


def _image_paths(root: Path, folder: Path) -> tuple[str, ...]:
    """List the images of a folder by their paths below `root`."""
    prefix = os.path.relpath(folder, root)
    return tuple(os.path.normpath(os.path.join(prefix, file)) for file in _images(folder))


def list_folder(root: Path) -> Tree:
    """List DIR/train/CLASS/*, DIR/val/CLASS/* and DIR/test/CLASS/*, or DIR/CLASS/*, or images without any class.

    The parts' folders may have any of the names in `PART_NAMES`. If `train` and similar folders contain images but no
    class folders, and there are folders that name no part, all are treated as classes (of vehicles, for example).

    Args:
        root: the folder; of the parts only `train` is required, and none if class folders are directly in `root`.

    Returns:
        The files; labels number the class names in alphabetical order, and images are grey if all files are. Other
        folders with images next to part folders are left out, which is logged.

    Raises:
        ValueError: with the folder's name, if there is no image, a class without images, two folders for one part, or a
            test part without a training part.
    """
    if not root.is_dir():
        raise ValueError(f"The folder '{root}' is absent.")
    parts = _parts(root)
    train = parts["train"] or root
    classes = class_folders(train)
    files = {part: list_part(root, folder, classes) for part, folder in parts.items() if folder is not None}
    for part, some in files.items():
        if not some.files:
            raise ValueError(f"The folder '{parts[part]}' holds no image (of {', '.join(sorted(SUFFIXES))}).")
    present = set() if files["train"].labels is None else set(files["train"].labels.tolist())
    for label, name in enumerate(classes):
        if label not in present:
            raise ValueError(f"The folder '{train / name}' of a class holds no image.")
    return Tree(root, files["train"], files.get("test"), files.get("validation"), classes, grey=None)


def _parts(root: Path) -> dict[str, Path | None]:
    """Return the folders of the parts; `root` is the training part if its folders are classes."""
    names = class_folders(root)
    found = {part: [name for name in names if name.lower() in words] for part, words in PART_NAMES.items()}
    of_parts = {name for some in found.values() for name in some}
    alone: dict[str, Path | None] = {"train": root, "test": None, "validation": None}
    if not of_parts:
        return alone
    others = [name for name in names if name not in of_parts and _images(root / name)]
    if others and not any(class_folders(root / name) for name in of_parts):
        return alone
    for some in found.values():
        if len(some) > 1:
            raise ValueError(
                f"The folder '{root}' has {some[0]}/ and {some[1]}/, which name the same part: remove one of them."
            )
    if not found["train"]:
        raise ValueError(
            f"The folder '{root}' has {', '.join(f'{name}/' for name in sorted(of_parts))} and no train/: call the "
            "folder of the training images train, or, where these are classes, put all of them into one."
        )
    if others:
        LOG.warning(
            "'%s': reading %s; %s, which name no part, are left out.",
            root,
            ", ".join(f"{some[0]}/" for some in found.values() if some),
            ", ".join(f"{name}/" for name in others),
        )
    return {part: root / some[0] if some else None for part, some in found.items()}


def decode_tree(tree: Tree, size: Pair | None = None) -> Arrays:
    """Decode all images of a tree into one array.

    Args:
        tree: the files.
        size: (height, width): images are scaled to cover it and cropped at the centre. None if all images already have
            one size.

    Raises:
        ValueError: with the file's name, if one is absent or cannot be decoded, or sizes differ while `size` is None.
    """
    parts = {"train": tree.train, "test": tree.test, "validation": tree.validation}
    present = {name: part for name, part in parts.items() if part is not None}
    paths = [place(tree.root, part.files, row) for part in present.values() for row in range(len(part.files))]
    grey = all(is_grey(path) for path in paths) if tree.grey is None else tree.grey
    images = decoded(paths, size, grey=grey)
    arrays: dict[str, Part] = {}
    start = 0
    for name, part in present.items():
        arrays[name] = Part(images[start : start + len(part.files)], part.labels)
        start += len(part.files)
    return Arrays(arrays["train"], arrays.get("test"), arrays.get("validation"), tree.class_names)
