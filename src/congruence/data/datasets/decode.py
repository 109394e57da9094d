"""Image files decoded with Pillow, upright, in grey or colour; one that cannot be is an error that names it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from congruence.core.check import COUNT, fail, hyperparameters
from congruence.core.files import absent, damaged
from congruence.data.augment.photos import Pair, evaluated

_GREY = frozenset(("1", "L", "LA", "I", "I;16", "I;16L", "I;16B"))


def two_sides(argument: str, size: int | Sequence[int]) -> Pair:
    """Check a size given to `load`, and return it as (height, width)."""
    pair = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2:
        fail("load", argument, "one number or (height, width)", size)
    for side in pair:
        hyperparameters("load", {argument: COUNT}, **{argument: side})
    return int(pair[0]), int(pair[1])


def decoded(paths: Sequence[Path], size: Pair | None = None, *, grey: bool = False) -> npt.NDArray[np.uint8]:
    """Decode files into [N, 1, H, W] in grey, or [N, 3, H, W].

    Args:
        paths: at least one file.
        size: (height, width); images are scaled to cover it and cropped at the centre. None where all have one size.
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
                f"The image '{path}' is {pixels.shape[0]}x{pixels.shape[1]} and '{paths[0]}' is "
                f"{first.shape[0]}x{first.shape[1]}: pass `size` to bring all to one height and width (on the command "
                "line --set data.size=64)."
            )
        images[position] = pixels.transpose(2, 0, 1)
    return images


def bytes_of(photo: Any) -> npt.NDArray[np.uint8]:
    """Return a Pillow image as [H, W, C]."""
    pixels = np.asarray(photo, dtype=np.uint8)
    return pixels.reshape(*pixels.shape[:2], -1)


def _pixels(path: Path, grey: bool, size: Pair | None) -> npt.NDArray[np.uint8]:
    photo = opened(path, grey=grey)
    return bytes_of(photo if size is None else evaluated(photo, size, None))


def _file(path: Path) -> Any:
    from PIL import Image

    try:
        return Image.open(path)
    except FileNotFoundError:
        raise absent(path) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise damaged(path, "it cannot be decoded as an image") from None


def is_grey(path: Path) -> bool:
    """Say whether a file's image is stored without colours."""
    with _file(path) as image:
        return str(image.mode) in _GREY


def _eight_bits(image: Any) -> Any:
    """Keep the upper byte of 16-bit grey, which Pillow would cut off at 255."""
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))


def opened(path: Path, *, grey: bool = False) -> Any:
    """Decode one file to a Pillow image of mode "L" or "RGB", turned as its camera says.

    Raises:
        ValueError: that names the file, where it is absent or cannot be decoded.
    """
    from PIL import Image, ImageOps

    with _file(path) as image:
        try:
            return _eight_bits(ImageOps.exif_transpose(image)).convert("L" if grey else "RGB")
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
            raise damaged(path, "it cannot be decoded as an image") from None
