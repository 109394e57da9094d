"""Published layouts, whole and damaged."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from _harness import layouts
from PIL import Image
from scipy.io import savemat

from congruence.data.sources import formats
from congruence.data.sources.formats import (
    read_cifar100_pickles,
    read_cifar_pickles,
    read_cifar_rows,
    read_idx,
    read_mnist_layout,
    read_quickdraw,
    read_svhn,
)
from congruence.data.sources.store import Arrays

GREY, COLOUR = layouts.content(1, 28), layouts.content(3, 32)


def same(arrays: Arrays, expected: layouts.Content) -> bool:
    found = (*arrays.train, *(arrays.test or ()))
    return all(np.array_equal(a, b) and a.dtype in (np.uint8, np.int64) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files(tmp_path: Path, suffix: str) -> None:
    assert same(read_mnist_layout(layouts.write_mnist(tmp_path, GREY, suffix=suffix)), GREY)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("text", [True, False])
def test_cifar_pickles(tmp_path: Path, protocol: int, text: bool) -> None:
    folder = layouts.write_cifar_pickles(tmp_path, COLOUR, protocol=protocol, text=text)
    assert same(read_cifar_pickles(folder), COLOUR)


@pytest.mark.parametrize("text", [True, False])
def test_cifar100_pickles_have_the_fine_labels(tmp_path: Path, text: bool) -> None:
    arrays = read_cifar100_pickles(layouts.write_cifar100(tmp_path, COLOUR, text=text))
    assert same(arrays, COLOUR._replace(train_labels=10 * COLOUR.train_labels, test_labels=10 * COLOUR.test_labels))


def test_house_numbers_have_a_zero(tmp_path: Path) -> None:
    assert same(read_svhn(layouts.write_svhn(tmp_path, COLOUR)), COLOUR)


@pytest.mark.parametrize("label", [3.7, 2.5, float("nan"), float("inf"), 1e30, True, "3", [3], [[3], [3]], None])
def test_labels_are_whole_numbers(tmp_path: Path, label: object) -> None:
    folder = layouts.write_cifar_pickles(tmp_path, COLOUR)
    content = pickle.loads((folder / "data_batch_2").read_bytes())
    key = next(key for key in content if key in ("labels", b"labels"))
    for right in ([float(number) for number in content[key]], np.array(content[key], np.float32)):
        (folder / "data_batch_2").write_bytes(pickle.dumps({**content, key: right}))
        assert same(read_cifar_pickles(folder), COLOUR)
    some = [label, *content[key][1:]] if label is not True else np.ones(len(content[key]), bool)
    (folder / "data_batch_2").write_bytes(pickle.dumps({**content, key: some}))
    with pytest.raises(ValueError, match=r"^The file '.*data_batch_2' is damaged: its labels are not "):
        read_cifar_pickles(folder)


def test_cifar_rows(tmp_path: Path) -> None:
    assert same(read_cifar_rows(layouts.write_cifar_rows(tmp_path, COLOUR)), COLOUR)


def test_a_row_holds_pixels_one_after_the_other(tmp_path: Path) -> None:
    pixels = np.zeros((10, 1024, 3), np.uint8)
    pixels[2, 33] = (1, 2, 3)
    layouts.write_cifar_rows(tmp_path, COLOUR)
    Image.fromarray(pixels).save(tmp_path / "data_batch_1.png")
    images = read_cifar_rows(tmp_path).train.images
    assert images[2, :, 1, 1].tolist() == [1, 2, 3]
    assert images[:10].sum() == 6


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _garbage(path: Path) -> None:
    path.write_bytes(b"garbage" * 9)


def _relabel(label: object) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps([label] * layouts.TRAIN))


@pytest.mark.parametrize(
    ("name", "harm", "sentence"),
    [
        ("train-images-idx3-ubyte.gz", _cut, "cannot be decompressed"),
        ("train-images-idx3-ubyte.gz", _garbage, "does not begin as an idx file of bytes with 3 dimensions"),
        ("t10k-labels-idx1-ubyte.gz", Path.unlink, "t10k-labels-idx1-ubyte.gz' is absent"),
        ("t10k-labels-idx1-ubyte.gz", lambda p: layouts.write_idx(p, np.zeros(3)), "3 labels for 20 images"),
        ("t10k-labels-idx1-ubyte.gz", lambda p: layouts.write_idx(p, np.full(20, 10)), "between 0 and 9"),
    ],
)
def test_harmed_idx_files(tmp_path: Path, name: str, harm: Callable[[Path], None], sentence: str) -> None:
    harm(layouts.write_mnist(tmp_path, GREY) / name)
    with pytest.raises(ValueError, match=f"^The file '.*{sentence}.*\\.$"):
        read_mnist_layout(tmp_path)


def test_an_idx_file_cut_short(tmp_path: Path) -> None:
    layouts.write_idx(tmp_path / "file", np.zeros((2, 3)))
    _cut(tmp_path / "file")
    with pytest.raises(ValueError, match="does not begin"):
        read_idx(tmp_path / "file", 2)
    layouts.write_idx(tmp_path / "file", np.zeros((20, 3)))
    _cut(tmp_path / "file")
    with pytest.raises(ValueError, match=r"announces \[20, 3\] values and holds 24"):
        read_idx(tmp_path / "file", 2)


@pytest.mark.parametrize(
    ("name", "harm", "sentence"),
    [
        ("data_batch_3.png", _cut, "cannot be decoded"),
        ("data_batch_3.png", _garbage, "cannot be decoded"),
        ("data_batch_3.png", Path.unlink, "data_batch_3.png' is absent"),
        ("test_batch.png", lambda p: Image.new("RGB", (64, 2)).save(p), "hold 64 pixels"),
        ("train_lables.json", _garbage, "is not JSON"),
        ("train_lables.json", Path.unlink, "train_lables.json' is absent"),
        ("train_lables.json", _relabel("x"), "not integers"),
        ("train_lables.json", _relabel(-1), "between 0 and 9"),
        ("train_lables.json", lambda p: p.write_text("[1]"), "1 labels for 50 images"),
    ],
)
def test_harmed_cifar_rows(tmp_path: Path, name: str, harm: Callable[[Path], None], sentence: str) -> None:
    harm(layouts.write_cifar_rows(tmp_path, COLOUR) / name)
    with pytest.raises(ValueError, match=f"^The file '.*{sentence}.*\\.$"):
        read_cifar_rows(tmp_path)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (Path.unlink, "data_batch_2' is absent"),
        (_cut, "cannot be read as a pickle"),
        (lambda p: p.write_bytes(b"K\x01."), "does not hold a dict"),
        (lambda p: p.write_bytes(b"}."), "'data' is not an array of bytes"),
    ],
)
def test_harmed_cifar_pickles(tmp_path: Path, harm: Callable[[Path], None], sentence: str) -> None:
    harm(layouts.write_cifar_pickles(tmp_path, COLOUR) / "data_batch_2")
    with pytest.raises(ValueError, match=f"^The file '.*{sentence}.*\\.$"):
        read_cifar_pickles(tmp_path)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (Path.unlink, "test_32x32.mat' is absent"),
        (_cut, "cannot be read as a MATLAB file"),
        (_garbage, "cannot be read as a MATLAB file"),
        (lambda p: savemat(p, {"y": np.ones((2, 1))}), "its 'X' is not an array of bytes"),
        (lambda p: savemat(p, {"X": np.zeros((32, 32, 3, 2))}), "its 'X' is not an array of bytes"),
        (lambda p: savemat(p, {"X": np.zeros((32, 32, 3, 2), np.uint8)}), "0 labels for 2 images"),
        (lambda p: savemat(p, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1], [11]]}), "between 0 and 9"),
    ],
)
def test_harmed_house_numbers(tmp_path: Path, harm: Callable[[Path], None], sentence: str) -> None:
    harm(layouts.write_svhn(tmp_path, COLOUR) / "test_32x32.mat")
    with pytest.raises(ValueError, match=f"^The file '.*{sentence}.*\\.$"):
        read_svhn(tmp_path)


def test_a_reader_that_ends_its_process_ends_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.write_svhn(tmp_path, COLOUR)
    monkeypatch.setattr(formats, "_READ_MAT", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(ValueError, match=r"train_32x32\.mat' is damaged: it cannot be read as a MATLAB file\.$"):
        read_svhn(tmp_path)


def test_harmed_cifar100_pickles(tmp_path: Path) -> None:
    layouts.write_cifar100(tmp_path, COLOUR._replace(test_labels=COLOUR.test_labels + 10))
    with pytest.raises(ValueError, match=r"test' is damaged: its labels are not all between 0 and 99\.$"):
        read_cifar100_pickles(tmp_path)
    (tmp_path / "train").unlink()
    with pytest.raises(ValueError, match=r"train' is absent\.$"):
        read_cifar100_pickles(tmp_path)


def test_quickdraw_shows_all_classes_first(tmp_path: Path) -> None:
    arrays = read_quickdraw(layouts.write_quickdraw(tmp_path, {"The sun": 2, "ant": 3}))
    assert arrays.class_names == ("The sun", "ant")
    assert (arrays.test, arrays.validation) == (None, None)
    assert arrays.train.labels.tolist() == [0, 1, 0, 1, 1]
    assert arrays.train.images.shape == (5, 1, 28, 28)
    assert (arrays.train.images.dtype, arrays.train.labels.dtype) == (np.uint8, np.int64)
    for image, (drawing, label) in zip(arrays.train.images, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1)], strict=True):
        assert image.reshape(-1).tolist() == [(p + 7 * drawing + 31 * label) % 256 for p in range(784)]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[0, 1", "its lines are not JSON lists of as many numbers each"),
        (b"[0, 1]\n[0]", "its lines are not JSON lists of as many numbers each"),
        (b"[0, 1]", "its lines are not 784 numbers from 0 to 1"),
        (b"", "its lines are not 784 numbers from 0 to 1"),
        (json.dumps([0] * 783 + [1.5]).encode(), "its lines are not 784 numbers from 0 to 1"),
        (json.dumps([0] * 783 + [float("nan")]).encode(), "its lines are not 784 numbers from 0 to 1"),
    ],
)
def test_drawings_that_are_none(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "ant.ndjson.gz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^The file '.*ant\.ndjson\.gz' is damaged: {sentence}\.$"):
        read_quickdraw(tmp_path)


def test_no_drawings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is absent"):
        read_quickdraw(tmp_path)
