"""`PhotoAugment`: photographs brought to one size, for evaluation or with random crops, mirroring and rotation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from congruence.core.check import Choice, Constraint, Flag, Real, fail, hyperparameters

Pair = tuple[int, int]
CONSTRAINTS: Mapping[str, Constraint] = {
    "crop": Choice(("random", "resized")),
    "flip": Flag(),
    "rotation": Real(low=0, high=180, closed="both"),
}
_TRIES = 10
_RATIOS = (3 / 4, 4 / 3)  # range of a resized crop's ratio of width to height
DRAWS = 4 + 2 * _TRIES  # random numbers for one image


@dataclass(frozen=True)
class PhotoAugment:
    """Crop from the whole photograph, mirror left to right half of the time, then rotate about the crop's centre.

    A "random" crop is taken at a random position, at the photograph's scale after `resize` (or after its shorter side
    was scaled to a random length from `sides`). A "resized" crop has a random share of the area, a random ratio of
    width to height (log-uniform in [3/4, 4/3]) and a random position, and is scaled to the size of the images.

    Args:
        crop: "random" or "resized".
        flip: whether images are mirrored.
        rotation: images are rotated by a random angle in [-rotation, rotation] degrees, corners filled with black.
        sides: for "random" crops, the smallest and largest length of the shorter side; None for the dataset's `resize`.
        area: for "resized" crops, the smallest and largest share of the area.

    Raises:
        ValueError: if an argument is not allowed.

    Example:
        >>> PhotoAugment(rotation=200)
        Traceback (most recent call last):
        ValueError: `PhotoAugment`: `rotation` must be a number >= 0 and <= 180, got 200.

    Reference:
        He et al., Deep Residual Learning, CVPR 2016, sec. 3.4 (`sides=(256, 480)`); Szegedy et al., Going Deeper with
        Convolutions, CVPR 2015, sec. 6 ("resized").

    Deviations:
        Colours are not changed. After ten draws of area and ratio that do not fit, the largest centred crop is taken.
    """

    crop: Literal["random", "resized"] = "random"
    flip: bool = True
    rotation: float = 0.0
    sides: Pair | None = None
    area: tuple[float, float] = (0.08, 1.0)

    def __post_init__(self) -> None:
        name = "PhotoAugment"
        hyperparameters(name, CONSTRAINTS, crop=self.crop, flip=self.flip, rotation=self.rotation)
        side, share = Real(low=1, closed="low", integer=True), Real(low=0, high=1, closed="high")
        if self.sides is not None and not _ordered(self.sides, side):
            fail(name, "sides", "two integers >= 1, the smaller first, or None", repr(self.sides))
        if self.sides is not None and self.crop != "random":
            fail(name, "sides", f"None where `crop` is {self.crop!r}", repr(self.sides))
        if not _ordered(self.area, share):
            fail(name, "area", "two numbers > 0 and <= 1, the smaller first", repr(self.area))
        object.__setattr__(self, "sides", None if self.sides is None else tuple(self.sides))
        object.__setattr__(self, "area", tuple(self.area))


def _ordered(pair: Any, allowed: Real) -> bool:
    fits = isinstance(pair, tuple | list) and len(pair) == 2 and all(allowed.accepts(value) for value in pair)
    return fits and bool(pair[0] <= pair[1])


def evaluated(photo: Any, size: Pair, resize: int | Pair | None) -> Any:
    """Return a Pillow image at `size` (height, width) without randomness: resized, then cropped at the centre.

    Args:
        photo: the image.
        size: (height, width) of the result.
        resize: the length of the shorter side before the crop, or (height, width), which may change the ratio; None to
            cover `size` as closely as the ratio allows.
    """
    from PIL import Image, ImageOps

    if resize is None:
        return photo if photo.size == size[::-1] else ImageOps.fit(photo, size[::-1], Image.Resampling.BILINEAR)
    scaled = _scaled(photo, size, resize)
    return _cut(scaled, (scaled.height - size[0]) // 2, (scaled.width - size[1]) // 2, size)


def augmented(
    photo: Any, draws: Sequence[float], *, augment: PhotoAugment, size: Pair, resize: int | Pair | None
) -> Any:
    """Return a Pillow image at `size` (height, width), augmented by `DRAWS` numbers in [0, 1).

    With u the numbers: a crop of h × w from H × W starts at row ⌊u₀(H−h+1)⌋ and column ⌊u₁(W−w+1)⌋, is mirrored if u₂ <
    1/2 and rotated by (2u₃−1)·rotation degrees, bilinearly; the other numbers are for side, area and ratio.

    Args:
        photo: the image.
        draws: u.
        augment: the augmentation.
        size: (height, width) of the result.
        resize: as in `evaluated`; not used for "resized" crops.
    """
    from PIL import Image

    if augment.crop == "resized":
        height, width, centre = _resized_crop((photo.height, photo.width), draws[4:], augment.area)
        top, left = centre or (_offset(draws[0], photo.height - height), _offset(draws[1], photo.width - width))
        box = (left, top, left + width, top + height)
        cropped = photo.resize(size[::-1], Image.Resampling.BILINEAR, box=box)
    else:
        if augment.sides is not None:
            low, high = augment.sides
            resize = low + _offset(draws[4], high - low)
        scaled = _scaled(photo, size, resize)
        top, left = _offset(draws[0], scaled.height - size[0]), _offset(draws[1], scaled.width - size[1])
        cropped = _cut(scaled, top, left, size)
    if augment.flip and draws[2] < 0.5:
        cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = (2 * draws[3] - 1) * augment.rotation
    return cropped.rotate(angle, Image.Resampling.BILINEAR) if angle else cropped


def _offset(draw: float, room: int) -> int:
    """Turn a number in [0, 1) into one of the offsets 0 … room."""
    return math.floor(draw * (room + 1))


def _cut(photo: Any, top: int, left: int, size: Pair) -> Any:
    return photo.crop((left, top, left + size[1], top + size[0]))


def _scaled(photo: Any, size: Pair, resize: int | Pair | None) -> Any:
    """Scale to the shorter side, to (height, width), or to cover `size`."""
    from PIL import Image

    if isinstance(resize, tuple):
        height, width = resize
    else:
        least = (size[0] / photo.height, size[1] / photo.width)
        factor = max(least) if resize is None else resize / min(photo.size)
        # After rounding, the image must not be smaller than the crop.
        height, width = (
            max(side, round(before * factor)) for side, before in zip(size, (photo.height, photo.width), strict=True)
        )
    return photo if photo.size == (width, height) else photo.resize((width, height), Image.Resampling.BILINEAR)


def _resized_crop(whole: Pair, draws: Sequence[float], area: tuple[float, float]) -> tuple[int, int, Pair | None]:
    """Return the height and width of a resized crop, and (top, left) only where it is the one at the centre."""
    low, high = (math.log(ratio) for ratio in _RATIOS)
    for share, shape in zip(draws[0 : 2 * _TRIES : 2], draws[1 : 2 * _TRIES : 2], strict=True):
        pixels = whole[0] * whole[1] * (area[0] + share * (area[1] - area[0]))
        ratio = math.exp(low + shape * (high - low))
        height, width = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < height <= whole[0] and 0 < width <= whole[1]:
            return height, width, None
    ratio = min(max(whole[1] / whole[0], _RATIOS[0]), _RATIOS[1])
    height, width = max(1, min(whole[0], round(whole[1] / ratio))), max(1, min(whole[1], round(whole[0] * ratio)))
    return height, width, ((whole[0] - height) // 2, (whole[1] - width) // 2)
