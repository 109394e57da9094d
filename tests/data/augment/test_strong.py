"""The strong view: the definition in slow loops, keyed by sample, and made by loaders for terms that ask for it."""

import math

import pytest
import torch

from congruence.core.rng import keyed_uniform
from congruence.data import ArrayDataset, Augment, loader
from congruence.data.augment.crops import view_stream
from congruence.data.augment.strong import jitter_and_cut


def pictures(count=6, channels=3, height=8, width=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def reference(image, draws):
    """One image, pixel by pixel, as real numbers before they are rounded."""
    channels, height, width = image.shape
    shares = (0.299, 0.587, 0.114) if channels == 3 else (1 / channels,) * channels
    light, contrast, colour = (0.6 + 0.8 * u for u in draws[:3])
    pixels = [[[float(image[c, y, x]) for c in range(channels)] for x in range(width)] for y in range(height)]
    mean = sum(s * v for row in pixels for p in row for s, v in zip(shares, p, strict=True)) / (height * width)
    side = min(height, width) // 2
    top, left = (math.floor(u * n) - side // 2 for u, n in zip(draws[3:], (height, width), strict=True))
    out = torch.zeros(channels, height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            if top <= y < top + side and left <= x < left + side:
                continue
            values = [light * v for v in pixels[y][x]]
            values = [light * mean + contrast * (v - light * mean) for v in values]
            grey = sum(s * v for s, v in zip(shares, values, strict=True))
            for c, value in enumerate(values):
                out[c, y, x] = grey + colour * (value - grey) if channels == 3 else value
    return out.clamp(0, 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_its_definition(channels):
    images, samples = pictures(channels=channels), torch.tensor([3, 9, 4, 0, 7, 5])
    found = jitter_and_cut(images, samples, seed=2, epoch=5)
    draws = keyed_uniform(2, 5, samples, 5, stream=view_stream("strong jitter")).tolist()
    for image, ours, row in zip(images, found, draws, strict=True):
        assert (ours.double() - reference(image, row)).abs().max() <= 0.501
    assert found.dtype == torch.uint8


def test_an_image_does_not_depend_on_its_batch():
    images, samples = pictures(32), torch.arange(32)
    together = jitter_and_cut(images, samples, seed=1, epoch=0)
    for k in range(0, 32, 5):
        alone = jitter_and_cut(images[k : k + 1], samples[k : k + 1], seed=1, epoch=0)
        assert torch.equal(alone[0], together[k])
    other = {"seed": 2, "epoch": 0}, {"seed": 1, "epoch": 1}, {"seed": 1, "epoch": 0, "view": "other"}
    assert all(not torch.equal(jitter_and_cut(images, samples, **key), together) for key in other)


def test_a_quarter_or_less_is_cut_out():
    found = jitter_and_cut(torch.full((200, 1, 8, 8), 100, dtype=torch.uint8), torch.arange(200), seed=0, epoch=0)
    cut = (found == 0).flatten(1).sum(1)
    assert cut.max().item() == 16
    assert cut.min().item() >= 4
    light = found.flatten(1).amax(1).float()
    assert 60 <= light.min() < 70
    assert 130 < light.max() <= 140


def test_loaders_make_it_of_the_view_that_is_called_strong():
    data = ArrayDataset(pictures(12, height=8, width=8), torch.arange(12), classes=12, mean=[0.5] * 3, std=[0.25] * 3)
    batches = loader(data, batch_size=12, augment=Augment(pad=0, flip=False), views=("main", "weak", "strong"))
    batch = next(batches.batches(3))
    plain = data.batch(batch["index"])
    assert torch.equal(batch["views"]["weak"], plain)
    raw = jitter_and_cut(data.raw(batch["index"]), batch["index"], seed=0, epoch=3)
    torch.testing.assert_close(batch["views"]["strong"], (raw.float() / 255 - 0.5) / 0.25)
    measured = next(loader(data, batch_size=12, shuffle=False, views=("main", "strong")).batches(0))
    assert torch.equal(measured["views"]["strong"], measured["views"]["main"])  # no augmentation, no strong one


@pytest.mark.parametrize(
    ("images", "samples", "got"),
    [
        (torch.zeros(2, 1, 4, 4), torch.arange(2), r"torch.float32 of shape \[2, 1, 4, 4\]"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.arange(2), r"of shape \[2, 4, 4\]"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.arange(3), r"for samples \[3\]"),
    ],
)
def test_bad_images(images, samples, got):
    with pytest.raises(ValueError, match=rf"`jitter_and_cut`: `images` must be a uint8 tensor.*{got}"):
        jitter_and_cut(images, samples, seed=0, epoch=0)
