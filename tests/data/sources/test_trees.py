"""Published trees of image files, whole and damaged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from _harness import layouts
from PIL import Image

from congruence.data import FileDataset, ImageDataset, PhotoAugment, load

SPECIES = {"Albatross": (4, 2), "Auklet": (3, 1), "Bunting": (5, 3)}
CLASSES = {"n01": 4, "n02": 6, "n03": 5}


def raw(dataset: ImageDataset) -> torch.Tensor:
    return dataset.raw(dataset.index)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)


@pytest.mark.parametrize("place", ["", "tiny-imagenet-200", "tiny-imagenet/tiny-imagenet-200"])
def test_tiny_imagenet(tmp_path: Path, place: str) -> None:
    tree = layouts.write_tiny_imagenet(tmp_path / place, CLASSES)
    splits = load("tiny-imagenet", root=tmp_path, validation=3)
    assert [len(part) for part in splits] == [12, 3, 6]
    assert splits.train.shape == (3, 64, 64)
    assert (splits.train.classes, splits.train.class_names) == (3, ("n01", "n02", "n03"))
    assert splits.validation.labels.tolist() == [0, 1, 2]
    assert splits.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert np.array_equal(raw(splits.test)[4], pixels(tree / "val/images/val_4.JPEG"))
    whole = load("tiny-imagenet", root=tmp_path, validation=0).train
    assert whole.labels.tolist() == [0] * 4 + [1] * 6 + [2] * 5
    assert np.array_equal(raw(whole)[5], pixels(tree / "train/n02/images/n02_1.JPEG"))
    assert np.array_equal(raw(whole)[4], pixels(tree / "train/n02/images/n02_0.JPEG"))


def test_images_of_grey_alone_have_three_channels(tmp_path: Path) -> None:
    layouts.write_tiny_imagenet(tmp_path, {"n01": 1, "n02": 1})
    assert load("tiny-imagenet", root=tmp_path, validation=0).train.shape == (3, 64, 64)


@pytest.mark.parametrize("place", ["", "CUB_200_2011", "cub200/CUB_200_2011"])
def test_cub200(tmp_path: Path, place: str) -> None:
    tree = layouts.write_cub200(tmp_path / place, SPECIES)
    splits = load("cub200", root=tmp_path, size=20, validation=0)
    assert [len(part) for part in splits] == [12, 0, 6]
    assert splits.train.shape == (3, 20, 20)
    assert splits.train.class_names == ("001.Albatross", "002.Auklet", "003.Bunting")
    assert splits.train.labels.tolist() == [0] * 4 + [1] * 3 + [2] * 5
    assert splits.test.labels.tolist() == [0, 0, 1, 2, 2, 2]
    first = pixels(tree / "images/001.Albatross/Albatross_0.jpg")
    assert np.array_equal(raw(splits.train)[0], first[:, :, 5:25])
    assert load("cub200", root=tmp_path, size=(16, 24)).test.shape == (3, 16, 24)


def test_part_of_the_birds_reads_as_itself(tmp_path: Path) -> None:
    layouts.write_cub200(tmp_path, SPECIES)
    for name in ("images", "image_class_labels", "train_test_split"):
        path = tmp_path / f"{name}.txt"
        path.write_text("".join(line for line in path.read_text().splitlines(keepends=True)[6:]))
    splits = load("cub200", root=tmp_path, size=20, validation=0)
    assert splits.train.class_names == ("002.Auklet", "003.Bunting")
    assert splits.train.labels.tolist() == [0] * 3 + [1] * 5


def test_the_size_is_asked_for_where_images_differ(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`size` must be given for 'cub200', whose images have sizes of their own"):
        load("cub200", root=tmp_path)
    with pytest.raises(ValueError, match="`size` must be None for 'tiny-imagenet', got 32"):
        load("tiny-imagenet", root=tmp_path, size=32)
    with pytest.raises(ValueError, match=r"'cub200' is not in '.*': pass as `root` a folder with .*\(images\.txt and"):
        load("cub200", root=tmp_path, size=32)
    layouts.write_tiny_imagenet(tmp_path, CLASSES, side=32)
    with pytest.raises(ValueError, match=r"are \(3, 32, 32\), expected \(3, 64, 64\)"):
        load("tiny-imagenet", root=tmp_path)


def _empty(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("place", "harm", "sentence"),
    [
        ("val/val_annotations.txt", Path.unlink, "val_annotations.txt' is absent"),
        ("val/val_annotations.txt", lambda p: p.write_text(""), "it is empty"),
        ("val/val_annotations.txt", lambda p: p.write_text("a.JPEG\tn01\n\nb.JPEG\n"), "line 3 has no 2 columns"),
        ("val/val_annotations.txt", lambda p: p.write_text("a.JPEG\tn09\n"), "class 'n09' has no training images"),
        ("val/val_annotations.txt", lambda p: p.write_bytes(b"\xff\xfe\x81"), "cannot be read as text"),
        ("val/images/val_1.JPEG", Path.unlink, "val_1.JPEG' is absent"),
        ("val/images/val_1.JPEG", lambda p: p.write_text("x"), "cannot be decoded as an image"),
        ("train", lambda p: p.rename(p.parent / "other"), "train' is absent"),
        ("train/n02/images", _empty, r"images' holds no image \(\*\.JPEG\)"),
    ],
)
def test_harmed_tiny_imagenet(tmp_path: Path, place: str, harm: Callable[[Path], None], sentence: str) -> None:
    harm(layouts.write_tiny_imagenet(tmp_path, CLASSES) / place)
    with pytest.raises(ValueError, match=rf"^The (file|folder) '.*{sentence}.*\.$"):
        load("tiny-imagenet", root=tmp_path)


@pytest.mark.parametrize(
    ("place", "harm", "sentence"),
    [
        ("image_class_labels.txt", Path.unlink, "image_class_labels.txt' is absent"),
        ("image_class_labels.txt", lambda p: p.write_text("1 1\n"), "no number for the image 2 of images.txt"),
        ("train_test_split.txt", lambda p: p.write_text(p.read_text().replace(" 1", " x")), "no number for the image"),
        (
            "train_test_split.txt",
            lambda p: p.write_text(p.read_text().replace(" 0", " 1")),
            "gives no image the number 0",
        ),
        ("images.txt", lambda p: p.write_text("1\n"), "line 1 has no 2 columns"),
        ("images/002.Auklet/Auklet_1.jpg", Path.unlink, "Auklet_1.jpg' is absent"),
        ("images/002.Auklet/Auklet_1.jpg", lambda p: p.write_text("x"), "cannot be decoded as an image"),
    ],
)
def test_harmed_cub200(tmp_path: Path, place: str, harm: Callable[[Path], None], sentence: str) -> None:
    harm(layouts.write_cub200(tmp_path, SPECIES) / place)
    with pytest.raises(ValueError, match=rf"^The file '.*{sentence}.*\.$"):
        load("cub200", root=tmp_path, size=20)


@pytest.mark.parametrize("place", ["", "imagenet", "ILSVRC2012"])
@pytest.mark.parametrize("stream", [True, False])
def test_imagenet(tmp_path: Path, place: str, stream: bool) -> None:
    tree = tmp_path / place
    layouts.write_classes(tree / "train", {"n02": 3, "n01": 4}, size=(20, 24))
    layouts.write_classes(tree / "val", {"n02": 2, "n01": 1}, size=(24, 20))
    layouts.write_image(tree / "test" / "unlabelled.png")
    splits = load("imagenet", root=tmp_path, size=20, validation=2, stream=stream)
    assert [len(part) for part in splits] == [5, 2, 3]
    assert splits.train.class_names == ("n01", "n02")
    assert torch.as_tensor(splits.test.labels).tolist() == [0, 1, 1]
    assert np.array_equal(splits.test.raw([0])[0], pixels(tree / "val/n01/0.png")[:, 2:22])


def test_imagenet_wants_class_folders(tmp_path: Path) -> None:
    layouts.write_classes(tmp_path / "train", {"n01": 2})
    with pytest.raises(ValueError, match=r"^The folder '.*val' is absent\.$"):
        load("imagenet", root=tmp_path, size=8)
    layouts.write_image(tmp_path / "val" / "ILSVRC2012_val_00000001.png")
    with pytest.raises(ValueError, match=r"^The folder '.*val' holds no image in a folder of its class"):
        load("imagenet", root=tmp_path, size=8)


def test_birds_are_streamed_for_the_papers_augmentation(tmp_path: Path) -> None:
    layouts.write_cub200(tmp_path, SPECIES)
    splits = load("cub200", root=tmp_path, size=20, resize=(24, 24), classes=2, validation=0)
    assert isinstance(splits.train, FileDataset)
    assert [len(part) for part in splits] == [7, 0, 3]
    assert splits.test.class_names == ("001.Albatross", "002.Auklet")
    turned = splits.train.batch([0, 1], augment=PhotoAugment(rotation=30))
    assert turned.shape == (2, 3, 20, 20)
