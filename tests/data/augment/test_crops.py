"""Keyed augmentation against a slow loop over images."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from congruence.core.rng import keyed_uniform
from congruence.data import Augment, normalize, pad_crop_flip
from congruence.data.augment.crops import CONSTRAINTS, view_stream


def images_of(count: int, channels: int = 3, height: int = 6, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def slow(images: Tensor, samples: Tensor, spec: Augment, seed: int, epoch: int, view: str) -> Tensor:
    out = []
    for image, sample in zip(images.numpy(), samples, strict=True):
        top, left, mirror = keyed_uniform(seed, epoch, sample[None], 3, stream=view_stream(view))[0].tolist()
        border = ((0, 0), (spec.pad, spec.pad), (spec.pad, spec.pad))
        padded = np.pad(image, border, mode="constant" if spec.mode == "zero" else "reflect")
        y, x = int(top * (2 * spec.pad + 1)), int(left * (2 * spec.pad + 1))
        crop = padded[:, y : y + image.shape[1], x : x + image.shape[2]]
        out.append(crop[:, :, ::-1] if spec.flip and mirror < 0.5 else crop)
    return torch.from_numpy(np.stack(out))


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("pad", [0, 1, 4])
@pytest.mark.parametrize("flip", [True, False])
def test_equals_a_loop_over_images(mode: str, pad: int, flip: bool) -> None:
    images, samples = images_of(40), torch.arange(100, 140)
    spec = Augment(pad=pad, flip=flip, mode=mode)
    got = pad_crop_flip(images, samples, augment=spec, seed=3, epoch=2, view="strong")
    assert got.dtype == torch.uint8
    assert torch.equal(got, slow(images, samples, spec, 3, 2, "strong"))


def test_an_image_does_not_depend_on_its_batch() -> None:
    images, samples = images_of(16), torch.arange(16)
    whole = pad_crop_flip(images, samples, augment=Augment(), seed=0, epoch=1)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    parts = [pad_crop_flip(images[some], samples[some], augment=Augment(), seed=0, epoch=1) for some in order.split(5)]
    assert torch.equal(torch.cat(parts), whole[order])


def test_seed_epoch_sample_and_view_all_matter() -> None:
    image = images_of(1, height=32, width=32).expand(200, -1, -1, -1)
    keys = [(0, 0, "main", 0), (1, 0, "main", 0), (0, 1, "main", 0), (0, 0, "weak", 0), (0, 0, "main", 200)]
    results = [
        pad_crop_flip(image, torch.arange(200) + first, augment=Augment(), seed=seed, epoch=epoch, view=view)
        for seed, epoch, view, first in keys
    ]
    for one, other in itertools.combinations(results, 2):
        assert (one != other).flatten(1).any(1).float().mean() > 0.9


def test_crops_and_flips_are_uniform() -> None:
    side = 8
    image = torch.arange(side * side, dtype=torch.uint8).view(1, 1, side, side).expand(4000, -1, -1, -1)
    out = pad_crop_flip(image, torch.arange(4000), augment=Augment(pad=1, mode="reflect"), seed=0, epoch=0)
    seen, counts = out.flatten(1).unique(dim=0, return_counts=True)
    assert len(seen) == 18
    assert 150 < int(counts.min()) <= int(counts.max()) < 300


def test_the_callers_images_are_not_changed() -> None:
    images = images_of(4)
    before = images.clone()
    pad_crop_flip(images, torch.arange(4), augment=Augment(), seed=0, epoch=0).fill_(0)
    pad_crop_flip(images, torch.arange(4), augment=Augment(0, False, "reflect"), seed=0, epoch=0).fill_(0)
    normalize(images, [0.5] * 3, [0.2] * 3).fill_(0)
    assert torch.equal(images, before)


def test_normalize_is_its_formula() -> None:
    images = images_of(5)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.25, 0.125]
    expected = (images.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    got = normalize(images, mean, std)
    assert got.dtype == torch.float32
    assert (got.double() - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_every_invalid_value_is_refused(name: str) -> None:
    for value in CONSTRAINTS[name].invalid():
        with pytest.raises(ValueError, match=rf"`Augment`: `{name}` must be "):
            Augment(**{name: value})


def test_sentences() -> None:
    images = images_of(2)
    with pytest.raises(ValueError, match=r"`augment.pad` must be < 5 to reflect 6x5 images, got 5\."):
        pad_crop_flip(images, torch.arange(2), augment=Augment(5, mode="reflect"), seed=0, epoch=0)
    with pytest.raises(ValueError, match=r"\[2, 3, 6, 5\] and \[3\]"):
        pad_crop_flip(images, torch.arange(3), augment=Augment(), seed=0, epoch=0)
    with pytest.raises(ValueError, match="`images` must be a uint8 tensor"):
        normalize(images.float(), [0.5] * 3, [0.5] * 3)
    with pytest.raises(ValueError, match="must be 3 numbers each, got 1 and 3"):
        normalize(images, [0.5], [0.5] * 3)
