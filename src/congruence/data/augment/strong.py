"""The view named "strong": augmented like other views, then brightness and colours are changed and a square cut out."""

from __future__ import annotations

import torch
from torch import Tensor

from congruence.core.check import fail, shape
from congruence.core.devices import to_device
from congruence.core.rng import keyed_uniform
from congruence.data.augment.crops import view_stream

STRONG_VIEWS = ("strong",)
_SPREAD = 0.4  # brightness, contrast and saturation are multiplied by 0.6 to 1.4
_GREY = (299, 587, 114)  # thousandths of red, green and blue that make up brightness (ITU-R BT.601)


def jitter_and_cut(images: Tensor, samples: Tensor, *, seed: int, epoch: int, view: str = "strong") -> Tensor:
    """Multiply brightness, contrast and saturation by random factors, then blacken a square at a random place.

    With u = keyed_uniform(seed, epoch, sample, 5; view) and f_k = 0.6 + 0.8 u_k: x ← f₀ x; x ← m + f₁ (x − m) with m
    the image's mean brightness; of three channels x ← g + f₂ (x − g) with g the pixel's brightness. The square's side
    is half the image's shorter side; its centre is the pixel at row ⌊u₃ H⌋ and column ⌊u₄ W⌋, and the square may reach
    beyond the image. An image's result does not depend on its batch.

    Shape:
        images uint8 [B, C, H, W]; samples [B]; result as `images`.

    Args:
        images: the batch.
        samples: each image's position in its dataset.
        seed: of the run.
        epoch: counted from 0.
        view: the name of the view; views draw independently.

    Returns:
        A new tensor on the device of `images`.

    Raises:
        ValueError: if `images` are not bytes or the shapes do not fit.

    Example:
        >>> import torch
        >>> images = torch.full((1, 1, 8, 8), 100, dtype=torch.uint8)
        >>> strong = jitter_and_cut(images, torch.tensor([3]), seed=0, epoch=0)
        >>> len(strong.unique()), bool((strong == 0).any())
        (2, True)
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or samples.shape != images.shape[:1]:
        got = f"{images.dtype} of shape {shape(images)} for samples {shape(samples)}"
        fail("jitter_and_cut", "images", "a uint8 tensor [B, C, H, W] with as many samples", got)
    # A random stream independent of the crop's, which uses the view's stream.
    draws = keyed_uniform(seed, epoch, to_device(samples, images.device), 5, stream=view_stream(f"{view} jitter"))
    factors = (1 - _SPREAD + 2 * _SPREAD * draws[:, :3]).float()
    light, contrast, colour = (factors[:, k, None, None, None] for k in range(3))
    # Sums of bytes are exact, so the result does not depend on the batch.
    mean = _brightness(images).sum((1, 2, 3), keepdim=True).float() / (1000 * images[0, 0].numel())
    out = images.float() * light
    out = mean * light + contrast * (out - mean * light)
    if images.shape[1] == 3:
        grey = sum(share / 1000 * out[:, k : k + 1] for k, share in enumerate(_GREY))
        out = grey + colour * (out - grey)
    out = out.round().clamp(0, 255).to(torch.uint8)
    return out * ~_square(images, draws[:, 3:])[:, None]


def _brightness(images: Tensor) -> Tensor:
    """Return each pixel's brightness in thousandths, as an integer [B, 1, H, W]."""
    whole = images.long()
    if images.shape[1] != 3:
        return whole.sum(1, keepdim=True) * 1000 // images.shape[1]
    red, green, blue = (share * whole[:, k : k + 1] for k, share in enumerate(_GREY))
    return red + green + blue


def _square(images: Tensor, draws: Tensor) -> Tensor:
    """Return which pixels [B, H, W] are cut out."""
    sides = images.shape[-2:]
    side = min(sides) // 2
    inside = []
    for size, draw in zip(sides, draws.unbind(1), strict=True):
        first = (draw * size).floor().long() - side // 2
        offset = torch.arange(size, device=images.device) - first[:, None]
        inside.append((offset >= 0) & (offset < side))
    return inside[0][:, :, None] & inside[1][:, None, :]
