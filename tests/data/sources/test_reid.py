"""Person re-identification in its published layouts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from _harness import layouts
from PIL import Image, ImageOps

from congruence.data import FileDataset, load, loader, read_reid

MARKET = {2: 4, 11: 3, 1500: 5}
MSMT = {0: (3, 1), 1: (4, 2), 9: (2, 1)}


def pixels(path: Path, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(ImageOps.fit(Image.open(path), size[::-1], method=Image.Resampling.BILINEAR)).transpose(2, 0, 1)


@pytest.mark.parametrize("place", ["", "Market-1501-v15.09.15", "market1501/Market-1501-v15.09.15"])
def test_market1501(tmp_path: Path, place: str) -> None:
    tree = layouts.write_market1501(tmp_path / place, MARKET)
    data = read_reid("market1501", tmp_path, size=(16, 8), validation=0)
    train, _, test = data.splits
    assert torch.as_tensor(train.labels).tolist() == [0] * 4 + [1] * 3 + [2] * 5
    assert train.class_names == ("0002", "0011", "1500")
    assert test.labels is None
    assert torch.equal(test.raw(test.index), data.query.raw(data.query.index))
    assert data.query_ids.tolist() == [3, 7]
    assert data.query_cameras.tolist() == [1, 1]
    seen = sorted(zip(data.gallery_ids.tolist(), data.gallery_cameras.tolist(), strict=True))
    assert seen == [(-1, 5), (0, 2), (3, 1), (3, 4), (7, 1), (7, 4)]
    row = data.gallery_ids.tolist().index(7)
    file = tree / "bounding_box_test/0007_c1s1_000001_01.jpg"
    assert np.array_equal(data.gallery.raw([row])[0], pixels(file, (16, 8)))
    assert data.gallery.mean == data.query.mean == train.mean
    assert data.gallery.std == train.std


def test_market1501_without_its_own_validation_holds_some_out(tmp_path: Path) -> None:
    splits = load("market1501", root=layouts.write_market1501(tmp_path, MARKET), size=8, validation=3)
    assert [len(part) for part in splits] == [9, 3, 2]


def test_junk_is_not_trained_on(tmp_path: Path) -> None:
    tree = layouts.write_market1501(tmp_path, MARKET)
    for name in ("-1_c1s1_000000_00.jpg", "0000_c1s1_000000_00.jpg"):
        layouts.write_image(tree / "bounding_box_train" / name)
    splits = load("market1501", root=tmp_path, size=8, validation=0)
    assert (len(splits.train), splits.train.classes) == (12, 3)


@pytest.mark.parametrize("place", ["", "MSMT17_V1", "msmt17/MSMT17_V1"])
def test_msmt17(tmp_path: Path, place: str) -> None:
    tree = layouts.write_msmt17(tmp_path / place, MSMT)
    data = read_reid("msmt17", tmp_path, size=(16, 8), resize=(18, 10))
    train, validation, _ = data.splits
    assert isinstance(train, FileDataset)
    assert torch.as_tensor(train.labels).tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert torch.as_tensor(validation.labels).tolist() == [0, 1, 1, 2]
    assert train.class_names == ("0000", "0001", "0009")
    assert (data.query_ids.tolist(), data.query_cameras.tolist()) == ([0, 1], [9, 9])
    assert (data.gallery_ids.tolist(), data.gallery_cameras.tolist()) == ([0, 0, 1, 1], [9, 14, 9, 14])
    file = tree / "test/0001/0001_002_14_0303morning_0015_0.jpg"
    scaled = Image.open(file).resize((10, 18), Image.Resampling.BILINEAR)
    assert np.array_equal(data.gallery.raw([3])[0], np.asarray(scaled)[1:17, 1:9].transpose(2, 0, 1))
    inputs, labels, _ = next(loader(data.gallery, batch_size=4, shuffle=False).batches(0))
    assert inputs.shape == (4, 3, 16, 8)
    assert labels is None


def test_msmt17_without_a_validation_list(tmp_path: Path) -> None:
    tree = layouts.write_msmt17(tmp_path, MSMT)
    (tree / "list_val.txt").unlink()
    assert [len(part) for part in load("msmt17", root=tmp_path, size=8, validation=3)] == [6, 3, 2]


def test_another_name_is_one_sentence() -> None:
    with pytest.raises(
        ValueError, match=r"`name` must be 'market1501' or 'msmt17', got 'msmt'\. Did you mean 'msmt17'"
    ):
        read_reid("msmt")


@pytest.mark.parametrize(
    ("place", "harm", "sentence"),
    [
        ("list_query.txt", Path.unlink, "list_query.txt' is absent"),
        ("list_train.txt", lambda p: p.write_text("0000/0000_000_01_m_0_0.jpg\n"), "its line 1 has no 2 columns"),
        ("list_gallery.txt", lambda p: p.write_text("a.jpg 3\n"), "its line 'a.jpg 3' gives no identity and camera"),
        ("list_train.txt", lambda p: p.write_text("0/0_0_01_m.jpg x\n"), "its line .* gives no identity and camera"),
        ("list_val.txt", lambda p: p.write_text("0/0_0_01_m.jpg 8\n"), "its identity 8 has no training images"),
        ("train/0001/0001_002_03_0303morning_0015_0.jpg", Path.unlink, "is absent"),
    ],
)
def test_harmed_msmt17(tmp_path: Path, place: str, harm: Callable[[Path], None], sentence: str) -> None:
    harm(layouts.write_msmt17(tmp_path, MSMT) / place)
    with pytest.raises(ValueError, match=rf"^The file '.*{sentence}.*\.$"):
        read_reid("msmt17", tmp_path, size=8)


def test_harmed_market1501(tmp_path: Path) -> None:
    tree = layouts.write_market1501(tmp_path, MARKET)
    layouts.write_image(tree / "query" / "holiday.jpg")
    with pytest.raises(ValueError, match=r"^The file '.*holiday\.jpg' has no name such as 0002_c1s1_000451_03\.jpg\.$"):
        read_reid("market1501", tmp_path, size=8)
    for path in (tree / "query").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"^The folder '.*query' holds no image \(\*\.jpg\)\.$"):
        read_reid("market1501", tmp_path, size=8)
    (tree / "query").rmdir()
    with pytest.raises(ValueError, match=r"^The folder '.*query' is absent\.$"):
        read_reid("market1501", tmp_path, size=8)
