"""`Augment`: small images padded, cropped and mirrored as a batch; and `normalize`, from bytes to float32."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from congruence.core.check import Choice, Constraint, Flag, Real, fail, hyperparameters, shape
from congruence.core.devices import to_device
from congruence.core.rng import keyed_uniform
from congruence.models.inputs import normalized

CONSTRAINTS: dict[str, Constraint] = {
    "pad": Real(low=0, closed="low", integer=True),
    "flip": Flag(),
    "mode": Choice(("zero", "reflect")),
}
PLAIN_VIEWS = ("clean",)


@dataclass(frozen=True)
class Augment:
    """Crop at a random offset of the image padded by `pad` pixels, then mirror left to right half of the time.

    Args:
        pad: pixels added on each side before cropping to the original size; 0 does not crop.
        flip: whether images are mirrored.
        mode: what the border is filled with: "zero" (black) or "reflect" (the image mirrored at its edge pixels).

    Raises:
        ValueError: if an argument is not allowed.
    """

    pad: int = 4
    flip: bool = True
    mode: Literal["zero", "reflect"] = "zero"

    def __post_init__(self) -> None:
        hyperparameters("Augment", CONSTRAINTS, pad=self.pad, flip=self.flip, mode=self.mode)


def view_stream(view: str) -> int:
    """Return the number that makes a view's random numbers independent of other views'; 0 for "main"."""
    return 0 if view == "main" else int.from_bytes(hashlib.sha256(view.encode()).digest()[:7], "big")


def pad_crop_flip(
    images: Tensor, samples: Tensor, *, augment: Augment, seed: int, epoch: int, view: str = "main"
) -> Tensor:
    """Pad, crop and mirror a batch with one gather.

    With u = keyed_uniform(seed, epoch, sample, 3; view) the crop starts at row ⌊u₀(2·pad+1)⌋ and column
    ⌊u₁(2·pad+1)⌋ of the padded image, and is mirrored if u₂ < 1/2. An image's result does not depend on its batch.

    Shape:
        images [B, C, H, W], any type; samples [B]; result as `images`.

    Args:
        images: the batch.
        samples: each image's position in its dataset.
        augment: the augmentation.
        seed: seed of the run.
        epoch: counted from 0.
        view: the name of the view; views draw independently.

    Returns:
        A new tensor on the device of `images`.

    Raises:
        ValueError: if the shapes do not fit, or `pad` is too large to reflect.

    Example:
        >>> import torch
        >>> images = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
        >>> still = pad_crop_flip(images, torch.tensor([7]), augment=Augment(pad=0, flip=False), seed=0, epoch=0)
        >>> bool((still == images).all())
        True
    """
    if images.dim() != 4 or samples.shape != images.shape[:1]:
        raise ValueError(
            "`pad_crop_flip`: `images` must be [B, C, H, W] and `samples` [B], "
            f"got {shape(images)} and {shape(samples)}."
        )
    height, width = images.shape[-2:]
    if augment.mode == "reflect" and augment.pad >= min(height, width):
        fail("pad_crop_flip", "augment.pad", f"< {min(height, width)} to reflect {height}x{width} images", augment.pad)
    device = images.device
    draws = keyed_uniform(seed, epoch, to_device(samples, device), 3, stream=view_stream(view))
    shifts = (draws[:, :2] * (2 * augment.pad + 1)).floor().long() - augment.pad
    rows = torch.arange(height, device=device) + shifts[:, :1]
    columns = torch.arange(width, device=device) + shifts[:, 1:]
    if augment.flip:
        columns = torch.where(draws[:, 2:] < 0.5, columns.flip(1), columns)
    inside = None
    if augment.mode == "zero":
        inside = _within(rows, height)[:, :, None] & _within(columns, width)[:, None, :]
        rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    else:
        rows, columns = _reflected(rows, height), _reflected(columns, width)
    pixels = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    out = images.flatten(2).gather(2, pixels[:, None, :].expand(-1, images.shape[1], -1)).view_as(images)
    return out if inside is None else out * inside[:, None]


def _within(positions: Tensor, size: int) -> Tensor:
    return (positions >= 0) & (positions < size)


def _reflected(positions: Tensor, size: int) -> Tensor:
    """Mirror positions outside [0, size) at the first and the last pixel, which are not repeated."""
    last = size - 1
    return last - (last - positions.abs()).abs()


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn bytes into numbers of mean 0 and deviation 1 over the training split: (x/255 - mean)/std for each channel.

    Shape:
        images uint8 [B, C, H, W]; result float32 of the same shape.

    Args:
        images: the batch.
        mean: one number for each channel, for images scaled to [0, 1].
        std: one number > 0 for each channel.

    Returns:
        float32, on the device of `images`.

    Raises:
        ValueError: if `images` are not bytes or the channels do not fit.

    Example:
        >>> import torch
        >>> normalize(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1), [0.5], [0.25]).flatten().tolist()
        [-2.0, 2.0]
    """
    if images.dtype != torch.uint8 or images.dim() != 4:
        fail("normalize", "images", "a uint8 tensor [B, C, H, W]", f"{images.dtype} of shape {shape(images)}")
    if not len(mean) == len(std) == images.shape[1]:
        fail("normalize", "mean and std", f"{images.shape[1]} numbers each", f"{len(mean)} and {len(std)}")
    return normalized(images.to(torch.float32), mean, std)
