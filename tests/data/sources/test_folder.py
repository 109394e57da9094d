"""Folders of images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _harness import layouts
from PIL import Image

from congruence.data import TextDataset, load
from congruence.data.datasets.decode import two_sides
from congruence.data.sources.any_folder import sample_names
from congruence.data.sources.folder import decode_tree, list_folder
from congruence.data.sources.store import Arrays


def read(root: Path, size: Any = None) -> tuple[Arrays, tuple[str, ...]]:
    arrays = decode_tree(list_folder(root), None if size is None else two_sides("size", size))
    return arrays, arrays.class_names


def test_three_parts_in_the_order_of_names(tmp_path: Path) -> None:
    layouts.write_classes(tmp_path / "train", {"b": 2, "a": 3})
    layouts.write_classes(tmp_path / "val", {"b": 1})
    layouts.write_classes(tmp_path / "test", {"a": 1, "b": 1})
    expected = layouts.write_image(tmp_path / "train/b/sub/9.PNG", seed=7)
    (tmp_path / "train/a/notes.txt").write_text("not an image")
    (tmp_path / "train/.hidden").mkdir()
    arrays, names = read(tmp_path)
    assert names == ("a", "b")
    assert arrays.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert arrays.validation.labels.tolist() == [1]
    assert arrays.test.labels.tolist() == [0, 1]
    assert arrays.train.images.shape == (6, 3, 8, 8)
    assert np.array_equal(arrays.train.images[5], expected.transpose(2, 0, 1))


def test_classes_directly_in_the_folder(tmp_path: Path) -> None:
    arrays, names = read(layouts.write_classes(tmp_path, {"x": 2, "y": 1}))
    assert names == ("x", "y")
    assert arrays.train.labels.tolist() == [0, 0, 1]
    assert arrays.test is None
    assert arrays.validation is None


@pytest.mark.parametrize(
    ("train", "test", "validation"),
    [
        ("training", "testing", "dev"),
        ("Train", "Test", "Val"),
        ("TRAIN", "Testing", "eval"),
        ("train", "test", "Valid"),
    ],
)
def test_parts_by_their_other_names(tmp_path: Path, train: str, test: str, validation: str) -> None:
    layouts.write_classes(tmp_path / train, {"a": 3, "b": 1})
    layouts.write_classes(tmp_path / test, {"a": 1})
    layouts.write_classes(tmp_path / validation, {"b": 2})
    arrays, names = read(tmp_path)
    assert names == ("a", "b")
    assert [len(part.images) for part in arrays[:3]] == [4, 1, 2]


def test_two_folders_of_one_part_are_refused(tmp_path: Path) -> None:
    layouts.write_classes(tmp_path / "train", {"a": 1})
    layouts.write_classes(tmp_path / "val", {"a": 1})
    layouts.write_classes(tmp_path / "dev", {"a": 1})
    with pytest.raises(
        ValueError, match=r"^The folder '.*' has dev/ and val/, which name the same part: remove one of them"
    ):
        list_folder(tmp_path)


def test_a_part_for_testing_alone_is_no_class(tmp_path: Path) -> None:
    layouts.write_classes(tmp_path / "eval", {"a": 1})
    layouts.write_classes(tmp_path / "Test", {"a": 1})
    with pytest.raises(ValueError, match=r"^The folder '.*' has Test/, eval/ and no train/: call the folder"):
        list_folder(tmp_path)


def test_a_class_that_is_called_train(tmp_path: Path) -> None:
    arrays, names = read(layouts.write_classes(tmp_path, {"cat": 12, "dog": 12, "train": 12}))
    assert names == ("cat", "dog", "train")
    assert arrays.train.labels.tolist() == [0] * 12 + [1] * 12 + [2] * 12


def test_what_is_left_out_beside_the_parts_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    layouts.write_classes(tmp_path / "train", {"a": 2, "b": 1})
    layouts.write_classes(tmp_path / "extra", {"a": 2})
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/licence.txt").write_text("free")
    assert read(tmp_path)[1] == ("a", "b")
    assert caplog.messages == [f"'{tmp_path}': reading train/; extra/, which name no part, are left out."]


def test_linked_folders_are_read(tmp_path: Path) -> None:
    layouts.write_classes(tmp_path / "elsewhere", {"more": 2})
    layouts.write_classes(tmp_path / "data", {"a": 1, "b": 1})
    (tmp_path / "data/a/linked").symlink_to(tmp_path / "elsewhere/more", target_is_directory=True)
    (tmp_path / "data/b/round").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data/c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    arrays, names = read(tmp_path / "data")
    assert names == ("a", "b", "c")
    assert np.bincount(arrays.train.labels).tolist() == [3, 1, 2]


def test_images_without_classes(tmp_path: Path) -> None:
    for number in range(3):
        layouts.write_image(tmp_path / f"{number}.png")
    arrays, names = read(tmp_path)
    assert names == ()
    assert arrays.train.labels is None
    assert len(arrays.train.images) == 3


def test_grey_stays_grey_unless_one_has_colour(tmp_path: Path) -> None:
    grey = layouts.write_image(tmp_path / "a/0.png", mode="L")
    assert np.array_equal(read(tmp_path)[0].train.images[0], grey[None])
    layouts.write_image(tmp_path / "b/0.png", mode="RGBA")
    images = read(tmp_path)[0].train.images
    assert images.shape == (2, 3, 8, 8)
    assert np.array_equal(images[0], np.stack([grey] * 3))


def test_sixteen_bits_keep_the_upper_byte(tmp_path: Path) -> None:
    values = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    (tmp_path / "a").mkdir()
    Image.fromarray(values).save(tmp_path / "a/0.png")
    assert np.array_equal(read(tmp_path)[0].train.images[0, 0], values >> 8)


def test_pixels_without_a_white_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "a/0.tif")
    with pytest.raises(ValueError, match=r"^The image '.*0\.tif' has floating-point pixels, whose value for white is"):
        read(tmp_path)
    Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8) * 2000).save(tmp_path / "a/0.tif")
    with pytest.raises(ValueError, match=r"^The image '.*0\.tif' has pixels from 0 to 126000, beyond 16 bits: convert"):
        read(tmp_path)


def test_twelve_bits_in_sixteen_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a").mkdir()
    for name in "01":
        Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 65).save(tmp_path / f"a/{name}.png")
    read(tmp_path)
    (told,) = caplog.messages
    assert told.startswith(f"'{tmp_path / 'a/0.png'}' has 16 bits and no pixel above 4095 of 65535, so that few")


def test_photographs_stand_upright(tmp_path: Path) -> None:
    pixels = layouts.write_image(tmp_path / "a/0.png", size=(8, 8))
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 3
    turned.save(tmp_path / "a/0.png", exif=exif)
    assert np.array_equal(read(tmp_path)[0].train.images[0], pixels[::-1, ::-1].transpose(2, 0, 1))


def test_one_size(tmp_path: Path) -> None:
    layouts.write_image(tmp_path / "a/0.png")
    layouts.write_image(tmp_path / "a/1.png", size=(8, 16))
    with pytest.raises(ValueError, match=r"1\.png' is 8x16 and '.*0\.png' is 8x8: pass `size`"):
        read(tmp_path)
    assert read(tmp_path, 6)[0].train.images.shape == (2, 3, 6, 6)
    assert read(tmp_path, (4, 6))[0].train.images.shape == (2, 3, 4, 6)
    cropped = read(tmp_path, 8)[0].train.images[1]
    assert np.array_equal(cropped, np.asarray(Image.open(tmp_path / "a/1.png"))[:, 4:12].transpose(2, 0, 1))
    for size in (0, 2.5, (1, 2, 3)):
        with pytest.raises(ValueError, match="`load`: `size` must be"):
            read(tmp_path, size)


@pytest.mark.parametrize("harm", ["cut", "garbage"])
def test_a_corrupt_image_is_named(tmp_path: Path, harm: str) -> None:
    layouts.write_classes(tmp_path, {"a": 2, "b": 1})
    content = (tmp_path / "a/1.png").read_bytes()
    (tmp_path / "a/1.png").write_bytes(content[:100] if harm == "cut" else b"no image")
    with pytest.raises(ValueError, match=r"^The file '.*a.1\.png' is damaged: it cannot be decoded as an image\.$"):
        read(tmp_path)


def test_nothing_to_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"The folder '.*none' is absent"):
        read(tmp_path / "none")
    with pytest.raises(ValueError, match=r"The folder '.*' holds no image"):
        read(tmp_path)
    layouts.write_classes(tmp_path / "train", {"a": 1})
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match=r"The folder '.*test' holds no image"):
        read(tmp_path)
    layouts.write_classes(tmp_path / "test", {"a": 1, "zebra": 1})
    with pytest.raises(ValueError, match=r"The folder '.*zebra' is a class that the training images do not have"):
        read(tmp_path)
    (tmp_path / "train/zebra").mkdir()
    with pytest.raises(ValueError, match=r"The folder '.*train.zebra' of a class holds no image"):
        read(tmp_path)


def test_samples_are_found_again_by_their_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for each in range(6):
            Image.new("L", (4, 4), 10 * each + (100 if name == "b" else 0)).save(tmp_path / name / f"{each}.png")
    for splits in (load(tmp_path), load(tmp_path, size=4, stream=True)):
        for part in (splits.test, splits.train, splits.train.subset([3, 0])):
            names = sample_names(part, tmp_path)
            pixels = part.raw(range(len(part)))[:, 0, 0, 0].tolist()
            assert [np.asarray(Image.open(tmp_path / name))[0, 0] for name in names] == pixels
    assert sample_names(load("digits").test) is None
    assert sample_names(TextDataset(["x", "y"], [0, 1]).subset([1])) == ["y"]
