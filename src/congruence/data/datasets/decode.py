"""Image files decoded with Pillow, upright, in grey or colour; errors name the file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from congruence.core.check import COUNT, fail, hyperparameters
from congruence.core.files import absent, damaged
from congruence.data.augment.photos import Pair, evaluated
from congruence.data.datasets.packed import Held

_WHITE, _FEW_BITS = 2**16 - 1, 2**12  # white in 16 bits; 12-bit images stay far below
LOG = logging.getLogger("congruence")
_TOLD: set[Path] = set()  # folders
_GREY = frozenset(("1", "L", "LA", "I", "I;16", "I;16L", "I;16B"))


def two_sides(argument: str, size: int | Sequence[int]) -> Pair:
    """Check a size given to `load`, and return it as (height, width)."""
    pair = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2:
        fail("load", argument, "one number or (height, width)", size)
    for side in pair:
        hyperparameters("load", {argument: COUNT}, **{argument: side})
    return int(pair[0]), int(pair[1])


def decoded(paths: Sequence[Path | Held], size: Pair | None = None, *, grey: bool = False) -> npt.NDArray[np.uint8]:
    """Decode files into [N, 1, H, W] in grey, or [N, 3, H, W].

    Args:
        paths: at least one file, or image inside another file.
        size: (height, width); images are scaled to cover it and cropped at the centre. None if all have one size.
        grey: whether images are turned grey.

    Raises:
        ValueError: that names the file, where one cannot be decoded, or sizes differ while `size` is None.
    """
    first = _pixels(paths[0], grey, size)
    images = np.empty((len(paths), first.shape[2], *first.shape[:2]), dtype=np.uint8)
    for position, path in enumerate(paths):
        pixels = _pixels(path, grey, size)
        if pixels.shape != first.shape:
            raise ValueError(
                f"The image '{named(path)}' is {pixels.shape[0]}x{pixels.shape[1]} and '{named(paths[0])}' is "
                f"{first.shape[0]}x{first.shape[1]}: pass `size` to bring all to one height and width (on the command "
                "line --set data.size=64)."
            )
        images[position] = pixels.transpose(2, 0, 1)
    return images


def bytes_of(photo: Any) -> npt.NDArray[np.uint8]:
    """Return a Pillow image as [H, W, C]."""
    pixels = np.asarray(photo, dtype=np.uint8)
    return pixels.reshape(*pixels.shape[:2], -1)


def named(path: Path | Held) -> Path:
    """Return the path by which an image is named in messages."""
    return path.path if isinstance(path, Held) else path


def _pixels(path: Path | Held, grey: bool, size: Pair | None) -> npt.NDArray[np.uint8]:
    photo = opened(path, grey=grey)
    return bytes_of(photo if size is None else evaluated(photo, size, None))


def _file(path: Path | Held) -> Any:
    from PIL import Image

    source = path.opened() if isinstance(path, Held) else path
    path = named(path)
    try:
        return Image.open(source)
    except FileNotFoundError:
        raise absent(path) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise damaged(path, "it cannot be decoded as an image") from None


def is_grey(path: Path | Held) -> bool:
    """Return whether a file's image is stored without colours."""
    with _file(path) as image:
        return str(image.mode) in _GREY


def _eight_bits(image: Any, path: Path) -> Any:
    """Keep the upper byte of 16-bit grey, which Pillow would clip at 255; other scales raise."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError(
            f"The image '{path}' has floating-point pixels, whose value for white is unknown: convert it to 8 or "
            "16 bits."
        )
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > _WHITE:
        raise ValueError(
            f"The image '{path}' has pixels from {low} to {high}, beyond 16 bits: convert it to 8 or 16 bits."
        )
    if 0 < high < _FEW_BITS:
        _tell_dark(path, high)
    return Image.fromarray((values >> 8).astype(np.uint8))


def _tell_dark(path: Path, high: int) -> None:
    """Warn, once for each folder, of a file that becomes almost black, since it may have 10 or 12 bits in 16."""
    if path.parent not in _TOLD:
        _TOLD.add(path.parent)
        LOG.warning(
            "'%s' has 16 bits and no pixel above %d of %d, so that few of its levels remain: if its camera gives 10 "
            "or 12 bits, first scale its pixels to 16 bits.",
            path,
            high,
            _WHITE,
        )


def opened(path: Path | Held, *, grey: bool = False) -> Any:
    """Decode one file, or an image inside one, to a Pillow image of mode "L" or "RGB", rotated by its EXIF orientation.

    Raises:
        ValueError: that names the file, where it is absent or cannot be decoded, or its pixels are floats or beyond
            16 bits.
    """
    from PIL import Image, ImageOps

    with _file(path) as image:
        try:
            upright = ImageOps.exif_transpose(image)
            upright.load()
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
            raise damaged(named(path), "it cannot be decoded as an image") from None
    return _eight_bits(upright, named(path)).convert("L" if grey else "RGB")
