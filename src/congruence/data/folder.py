"""A folder of images, one folder a class, read into one array."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from congruence.core.check import COUNT, fail, hyperparameters
from congruence.data.formats import absent, damaged
from congruence.data.store import Arrays, Part

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"))
PART_NAMES = {"train": ("train",), "test": ("test",), "validation": ("val", "validation", "valid")}
_GREY = frozenset(("1", "L", "LA", "I", "I;16", "I;16L", "I;16B"))


class Folder(NamedTuple):
    """What a folder holds: arrays, and the names of the classes (none where images lie in no class folder)."""

    arrays: Arrays
    class_names: tuple[str, ...]


class _File(NamedTuple):
    path: Path
    label: int


def _visible(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    ]


def _class_names(folder: Path) -> tuple[str, ...]:
    return tuple(path.name for path in _visible(folder) if path.is_dir())


def _listed(folder: Path, classes: tuple[str, ...]) -> list[_File]:
    """List the images of one part; `classes` are those of the training part."""
    if not classes:
        return [_File(path, -1) for path in _images(folder)]
    unknown = sorted(set(_class_names(folder)) - set(classes))
    if unknown:
        raise ValueError(f"The folder '{folder / unknown[0]}' is of a class that the training images do not have.")
    return [
        _File(path, label)
        for label, name in enumerate(classes)
        if (folder / name).is_dir()
        for path in _images(folder / name)
    ]


def read_folder(root: Path, size: int | tuple[int, int] | None = None) -> Folder:
    """Read DIR/train/CLASS/*, DIR/val/CLASS/* and DIR/test/CLASS/*, or DIR/CLASS/*, or images without any class.

    Args:
        root: the folder; of the parts only `train` is needed, and none where classes lie directly in `root`.
        size: (height, width), or one number for both: images are scaled to cover it and cropped at the centre. None
            where all images already have one size.

    Returns:
        Images as bytes, in grey where all of them are; labels count the class names in alphabetical order.

    Raises:
        ValueError: in one sentence that names the file or folder, where there is no image, a class without one, a file
            that cannot be decoded, or sizes that differ while `size` is None.
    """
    if not root.is_dir():
        raise ValueError(f"The folder '{root}' is absent.")
    parts = {
        part: next((root / name for name in names if (root / name).is_dir()), None)
        for part, names in PART_NAMES.items()
    }
    if parts["train"] is None:
        parts = {"train": root, "test": None, "validation": None}
    train = parts["train"] or root
    classes = _class_names(train)
    files = {part: _listed(folder, classes) for part, folder in parts.items() if folder is not None}
    for part, listed in files.items():
        if not listed:
            raise ValueError(f"The folder '{parts[part]}' holds no image (of {', '.join(sorted(SUFFIXES))}).")
    present = {file.label for file in files["train"]}
    for label, name in enumerate(classes):
        if label not in present:
            raise ValueError(f"The folder '{train / name}' of a class holds no image.")
    everything = [file for listed in files.values() for file in listed]
    paths = [file.path for file in everything]
    images = decoded(paths, size, grey=all(_mode(path) in _GREY for path in paths))
    labels = np.array([file.label for file in everything], dtype=np.int64)
    read: dict[str, Part] = {}
    start = 0
    for part, listed in files.items():
        rows = slice(start, start + len(listed))
        read[part] = Part(images[rows], labels[rows] if classes else None)
        start += len(listed)
    return Folder(Arrays(read["train"], read.get("test"), read.get("validation")), classes)


def _size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = size if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2:
        fail("load", "size", "one number or (height, width)", size)
    for side in pair:
        hyperparameters("load", {"size": COUNT}, size=side)
    return int(pair[0]), int(pair[1])


def decoded(
    paths: list[Path], size: int | tuple[int, int] | None = None, *, grey: bool = False
) -> npt.NDArray[np.uint8]:
    """Decode files into [N, 1, H, W] in grey, or [N, 3, H, W]; `size` as in `read_folder`."""
    sides = _size(size)
    first: npt.NDArray[np.uint8] = _pixels(paths[0], grey, sides)
    images = np.empty((len(paths), first.shape[2], *first.shape[:2]), dtype=np.uint8)
    for position, path in enumerate(paths):
        pixels = _pixels(path, grey, sides)
        if pixels.shape != first.shape:
            raise ValueError(
                f"The image '{path}' is {pixels.shape[0]}x{pixels.shape[1]} and '{paths[0]}' is "
                f"{first.shape[0]}x{first.shape[1]}: pass `size` to bring all to one height and width (on the command "
                "line --set data.size=64)."
            )
        images[position] = pixels.transpose(2, 0, 1)
    return images


def _opened(path: Path) -> Any:
    from PIL import Image

    try:
        return Image.open(path)
    except FileNotFoundError:
        raise absent(path) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise damaged(path, "it cannot be decoded as an image") from None


def _mode(path: Path) -> str:
    with _opened(path) as image:
        return str(image.mode)


def _eight_bits(image: Any) -> Any:
    """Keep the upper byte of 16-bit grey, which Pillow would cut off at 255."""
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))


def _pixels(path: Path, grey: bool, size: tuple[int, int] | None) -> npt.NDArray[np.uint8]:
    """Decode one image to [H, W, C], turned as its camera says."""
    from PIL import Image, ImageOps

    with _opened(path) as image:
        try:
            upright = ImageOps.exif_transpose(image)
            upright = _eight_bits(upright).convert("L" if grey else "RGB")
            if size is not None and upright.size != size[::-1]:
                upright = ImageOps.fit(upright, size[::-1], method=Image.Resampling.BILINEAR)
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
            raise damaged(path, "it cannot be decoded as an image") from None
        pixels = np.asarray(upright, dtype=np.uint8)
    return pixels.reshape(*pixels.shape[:2], -1)
