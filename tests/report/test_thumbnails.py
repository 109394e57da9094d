"""Samples as a page shows them."""

import base64
import io

import torch
from PIL import Image
from torch.utils.data import TensorDataset

from congruence.data import ArrayDataset, TextDataset, load
from congruence.data.loading.items import ItemDataset
from congruence.data.sources.any_folder import sample_names
from congruence.report import thumbnails
from congruence.report.thumbnails import SIDE, shown


def images(count, height, width, channels=3):
    values = torch.arange(count, dtype=torch.uint8)[:, None, None, None] * 40
    labels = torch.zeros(count, dtype=torch.int64)
    pixels = values.expand(count, channels, height, width).contiguous()
    return ArrayDataset(pixels, labels, classes=2, mean=[0.5] * channels, std=[0.5] * channels)


def sheet(found):
    return Image.open(io.BytesIO(base64.b64decode(found["sprite"])))


def test_images_are_whole_in_the_order_asked_for():
    found = shown(images(5, 8, 8), [4, 0, 2])
    picture = sheet(found)
    assert (found["columns"], picture.size, picture.mode) == (2, (2 * SIDE, 2 * SIDE), "RGB")
    middles = [picture.getpixel((x + SIDE // 2, y + SIDE // 2))[0] for y in (0, SIDE) for x in (0, SIDE)]
    assert [abs(value - expected) < 6 for value, expected in zip(middles, [160, 0, 80, 0], strict=True)] == [True] * 4


def test_a_wide_image_keeps_its_ratio_and_one_channel_is_grey():
    picture = sheet(shown(images(4, 16, 64, channels=1), [3]))
    assert picture.mode == "L"
    assert picture.getpixel((16, 2)) < 8
    assert abs(picture.getpixel((16, 16)) - 120) < 6


def test_a_sheet_that_is_too_large_is_pressed_harder(monkeypatch):
    noise = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ArrayDataset(noise, torch.zeros(40, dtype=torch.int64), classes=1, mean=[0.5] * 3, std=[0.5] * 3)
    usual = len(shown(data, range(40))["sprite"])
    monkeypatch.setattr(thumbnails, "_BYTES", 25_000)
    assert len(shown(data, range(40))["sprite"]) < min(usual, 25_000 * 4 / 3 + 4)


def test_texts_are_cut_and_other_samples_show_nothing():
    data = TextDataset(["short", "x" * 500, "other"], [0, 1, 0]).subset([1, 2])
    assert shown(data, [1, 0]) == {"names": ["sample 2", "sample 1"], "texts": ["other", "x" * 299 + "…"]}
    assert shown(images(2, 4, 4), []) == {"names": []}
    rows = ItemDataset(TensorDataset(torch.eye(3), torch.tensor([0, 1, 1])), name="table").subset([2, 0])
    assert shown(rows, [0, 1]) == {"names": ["sample 2", "sample 0"]}


def test_files_are_named_after_themselves(tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for number in range(6):
            Image.new("RGB", (8, 8)).save(tmp_path / kind / f"{kind}{number}.png")
    for stream in (False, True):
        part = load(tmp_path, size=8, validation=0, test=4, stream=stream).test
        files = sample_names(part, tmp_path)
        names = shown(part, [2, 0], files)["names"]
        assert names == [files[row] for row in (2, 0)]
        assert all((tmp_path / name).is_file() for name in names)
