"""Photographs brought to one size: against slow loops over pixels, and Pillow alone."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from congruence.data import PhotoAugment
from congruence.data.augment.photos import CONSTRAINTS, DRAWS, augmented, evaluated

STILL = PhotoAugment(flip=False)


def photo(height: int, width: int, *, seed: int = 0) -> Any:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def draws(**places: float) -> list[float]:
    """All draws at a half, but those given as u0=…, u1=…."""
    values = [0.5] * DRAWS
    for name, value in places.items():
        values[int(name[1:])] = value
    return values


def test_evaluation_without_resize_covers_the_size() -> None:
    image = photo(20, 30)
    assert np.array_equal(evaluated(image, (20, 20), None), np.asarray(image)[:, 5:25])
    expected = ImageOps.fit(image, (12, 8), method=Image.Resampling.BILINEAR)
    assert np.array_equal(evaluated(image, (8, 12), None), expected)


@pytest.mark.parametrize(("shape", "scaled"), [((20, 30), (10, 15)), ((30, 20), (15, 10)), ((21, 20), (10, 10))])
def test_resize_is_of_the_shorter_side_then_the_centre_is_cut(shape: tuple[int, int], scaled: tuple[int, int]) -> None:
    image = photo(*shape)
    whole = np.asarray(image.resize(scaled[::-1], Image.Resampling.BILINEAR))
    top, left = (scaled[0] - 8) // 2, (scaled[1] - 6) // 2
    assert np.array_equal(evaluated(image, (8, 6), 10), whole[top : top + 8, left : left + 6])


def test_resize_to_both_sides_forgets_the_ratio() -> None:
    image = photo(20, 30)
    expected = np.asarray(image.resize((10, 10), Image.Resampling.BILINEAR))[1:9, 1:9]
    assert np.array_equal(evaluated(image, (8, 8), (10, 10)), expected)


def test_a_random_crop_starts_where_the_draws_say() -> None:
    image, pixels, seen = photo(6, 9), np.asarray(photo(6, 9)), set()
    for u, v in itertools.product(np.linspace(0, 0.999, 13), repeat=2):
        found = np.asarray(augmented(image, draws(u0=u, u1=v), augment=STILL, size=(4, 4), resize=6))
        top, left = math.floor(u * 3), math.floor(v * 6)
        assert np.array_equal(found, pixels[top : top + 4, left : left + 4])
        seen.add((top, left))
    assert len(seen) == 3 * 6


def test_sides_are_drawn_from_least_to_greatest() -> None:
    image, augment = photo(40, 60), PhotoAugment(flip=False, sides=(10, 12))
    for draw, side in ((0.0, 10), (0.34, 11), (0.5, 11), (0.99, 12)):
        found = augmented(image, draws(u0=0, u1=0, u4=draw), augment=augment, size=(8, 8), resize=9)
        whole = np.asarray(image.resize((round(side * 1.5), side), Image.Resampling.BILINEAR))
        assert np.array_equal(found, whole[:8, :8])


def test_without_resize_a_random_crop_moves_along_the_longer_side_alone() -> None:
    image = photo(8, 16)
    found = [np.asarray(augmented(image, draws(u1=v), augment=STILL, size=(8, 8), resize=None)) for v in (0, 0.999)]
    assert np.array_equal(found[0], np.asarray(image)[:, :8])
    assert np.array_equal(found[1], np.asarray(image)[:, 8:])


def test_mirrored_below_a_half() -> None:
    image, flip = photo(8, 8), PhotoAugment()
    for draw, step in ((0.0, -1), (0.499, -1), (0.5, 1), (0.999, 1)):
        found = augmented(image, draws(u2=draw), augment=flip, size=(8, 8), resize=None)
        assert np.array_equal(found, np.asarray(image)[:, ::step])


def test_turned_by_an_angle_between_both_ends() -> None:
    image = photo(9, 9)
    for draw, angle in ((0.0, -90), (0.5, 0), (1.0, 90)):
        turned = PhotoAugment(flip=False, rotation=90)
        found = augmented(image, draws(u3=draw), augment=turned, size=(9, 9), resize=None)
        assert np.array_equal(found, np.rot90(np.asarray(image), angle // 90))
    white = Image.new("RGB", (9, 9), "white")
    corners = np.asarray(
        augmented(white, draws(u3=0.75), augment=PhotoAugment(rotation=90), size=(9, 9), resize=None)
    )  # by 45 degrees
    assert corners[0, 0].tolist() == [0, 0, 0]
    assert corners[4, 4].tolist() == [255, 255, 255]


def _slow_share(height: int, width: int, numbers: list[float], area: tuple[float, float]) -> tuple[int, int] | None:
    for attempt in range(10):
        share = area[0] + (area[1] - area[0]) * numbers[4 + 2 * attempt]
        ratio = (3 / 4) * (16 / 9) ** numbers[5 + 2 * attempt]
        h, w = round((height * width * share / ratio) ** 0.5), round((height * width * share * ratio) ** 0.5)
        if h <= height and w <= width:
            return h, w
    return None


def test_a_resized_crop_has_its_drawn_share_and_ratio() -> None:
    image, generator = photo(30, 40), np.random.default_rng(1)
    whole, none = PhotoAugment(crop="resized", flip=False, area=(0.3, 1.0)), 0
    for _ in range(50):
        numbers = generator.random(DRAWS).tolist()
        found = augmented(image, numbers, augment=whole, size=(8, 8), resize=None)
        sides = _slow_share(30, 40, numbers, (0.3, 1.0))
        if sides is None:
            none += 1
            continue
        top, left = (math.floor(u * (room - side + 1)) for u, room, side in zip(numbers, (30, 40), sides, strict=False))
        box = (left, top, left + sides[1], top + sides[0])
        assert np.array_equal(found, image.resize((8, 8), Image.Resampling.BILINEAR, box=box))
    assert none < 5


@pytest.mark.parametrize(("shape", "box"), [((10, 40), (13, 0, 26, 10)), ((40, 10), (0, 13, 10, 26))])
def test_where_no_share_fits_the_largest_centred_crop_is_taken(
    shape: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    image = photo(*shape)
    full = PhotoAugment(crop="resized", flip=False, area=(1.0, 1.0))
    found = augmented(image, draws(), augment=full, size=(8, 8), resize=None)
    height, width = box[3] - box[1], box[2] - box[0]
    assert np.array_equal(found, image.resize((8, 8), Image.Resampling.BILINEAR, box=box))
    assert max(height, width) / min(height, width) == pytest.approx(4 / 3, rel=0.05)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        *(({name: value}, f"`{name}` must be") for name, kind in CONSTRAINTS.items() for value in kind.invalid()),
        *(({"sides": value}, "`sides` must be two integers >= 1") for value in ((3,), (0, 4), (5, 4), 8, (1.5, 4))),
        *(({"area": value}, "`area` must be two numbers > 0") for value in ((0.0, 1.0), (0.5, 0.2), (0.5, 1.1), 1.0)),
        ({"crop": "resized", "sides": (8, 9)}, "`sides` must be None where `crop` is 'resized'"),
    ],
)
def test_misfits_are_one_sentence(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^`PhotoAugment`: {sentence}.*, got .*"):
        PhotoAugment(**wrong)
