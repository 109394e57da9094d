"""Named datasets and folders, split."""

from pathlib import Path

import numpy as np
import pytest
import torch
from _harness import layouts
from PIL import Image
from sklearn.datasets import load_digits

from congruence.data import SOURCES, ArrayDataset, Splits, load
from congruence.data.sources.store import Arrays, Part, write_arrays

GREY, COLOUR = layouts.content(1, 28), layouts.content(3, 32)


def raw(dataset: ArrayDataset) -> torch.Tensor:
    return dataset.raw(dataset.index)


def test_digits_are_all_there_once() -> None:
    splits = load("digits")
    assert isinstance(splits, Splits)
    assert [len(part) for part in splits] == [1258, 180, 359]
    bunch = load_digits()
    expected = (torch.from_numpy(bunch.images) * 255 / 16).round().to(torch.uint8)[:, None]
    together = torch.cat([raw(part) for part in splits])
    assert int(together.max()) == 255
    assert sorted(map(bytes, together.flatten(1).numpy())) == sorted(map(bytes, expected.flatten(1).numpy()))
    by_image = {bytes(image.numpy()): label for image, label in zip(expected, bunch.target, strict=True)}
    for part in splits:
        assert part.labels is not None
        assert part.classes == 10
        assert all(by_image[bytes(image.numpy())] == label for image, label in zip(raw(part), part.labels, strict=True))
        share = part.labels.bincount() / len(part)
        assert (share - torch.from_numpy(np.bincount(bunch.target) / 1797)).abs().max() < 0.006


def test_moments_are_those_of_the_training_part() -> None:
    splits = load("digits", train_size=100)
    values = raw(splits.train).double() / 255
    assert len(splits.train) == 100
    assert splits.train.mean == pytest.approx([float(values.mean())], rel=1e-12)
    assert splits.train.std == pytest.approx([float(values.std(correction=0))], rel=1e-12)
    assert splits.test.mean == splits.validation.mean == splits.train.mean
    assert abs(float(splits.train.batch(range(100)).mean())) < 1e-6


def test_the_seed_alone_chooses() -> None:
    first, again, other = (load("digits", split_seed=seed) for seed in (0, 0, 1))
    assert [part.fingerprint() for part in first] == [part.fingerprint() for part in again]
    assert first.test.fingerprint() != other.test.fingerprint()
    assert load("digits", validation=50).test.fingerprint(labels=False) != first.test.fingerprint(labels=False)
    assert torch.equal(raw(load("digits", validation=50).test), raw(first.test))


def test_sizes_can_be_numbers_or_fractions() -> None:
    assert [len(part) for part in load("digits", validation=0, test=0.5)] == [899, 0, 898]
    assert [len(part) for part in load("digits", validation=7, test=100)] == [1690, 7, 100]
    whole = load("digits", validation=0, test=0)
    assert [len(part) for part in whole] == [1797, 0, 0]


@pytest.mark.parametrize("layout", ["idx", "gz", "torchvision", "fetched"])
def test_fashion_mnist_layouts(tmp_path: Path, layout: str) -> None:
    if layout == "fetched":
        (tmp_path / "fashion-mnist").mkdir()
        write_arrays(tmp_path / "fashion-mnist", Arrays(Part(*GREY[:2]), Part(*GREY[2:])), {})
    else:
        place = tmp_path / "FashionMNIST/raw" if layout == "torchvision" else tmp_path
        layouts.write_mnist(place, GREY, suffix=".gz" if layout == "gz" else "")
    splits = load("fashion-mnist", root=tmp_path, validation=10)
    assert [len(part) for part in splits] == [40, 10, 20]
    assert splits.validation.labels.bincount().tolist() == [1] * 10
    assert np.array_equal(raw(splits.test), GREY.test_images)
    assert splits.test.labels.tolist() == GREY.test_labels.tolist()


@pytest.mark.parametrize("place", ["", "cifar-10-batches-py", "cifar10/cifar-10-batches-py"])
def test_cifar10_layouts(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.write_cifar_pickles(tmp_path / place, COLOUR)
    monkeypatch.setenv("CONGRUENCE_DATA", str(tmp_path))
    splits = load("cifar10", validation=0.2, train_size=20)
    assert [len(part) for part in splits] == [20, 10, 20]
    assert splits.train.labels.bincount().tolist() == [2] * 10
    assert np.array_equal(raw(splits.test), COLOUR.test_images)
    assert splits.train.class_names[3] == "cat"


@pytest.mark.parametrize("place", ["", "cifar-100-python", "cifar100/cifar-100-python"])
def test_cifar100_layouts(tmp_path: Path, place: str) -> None:
    layouts.write_cifar100(tmp_path / place, COLOUR)
    splits = load("cifar100", root=tmp_path, validation=0.2)
    assert [len(part) for part in splits] == [40, 10, 20]
    assert splits.train.classes == 100
    assert (splits.train.class_names[0], splits.train.class_names[30], splits.train.class_names[90]) == (
        *("apple", "dolphin"),
        "train",
    )
    assert splits.test.labels.tolist() == (10 * COLOUR.test_labels).tolist()
    assert np.array_equal(raw(splits.test), COLOUR.test_images)


@pytest.mark.parametrize("place", ["", "svhn"])
def test_svhn_layouts(tmp_path: Path, place: str) -> None:
    layouts.write_svhn(tmp_path / place, COLOUR)
    splits = load("svhn", root=tmp_path, validation=10)
    assert [len(part) for part in splits] == [40, 10, 20]
    assert splits.test.labels.tolist() == COLOUR.test_labels.tolist()
    assert np.array_equal(raw(splits.test), COLOUR.test_images)
    assert not splits.train.augment.flip


def test_a_folder_of_another_dataset_is_not_taken_for_one(tmp_path: Path) -> None:
    layouts.write_classes(tmp_path / "train", {"a": 1})
    for name in ("cifar100", "tiny-imagenet"):
        with pytest.raises(ValueError, match=rf"'{name}' is not in '.*': pass as `root` a folder"):
            load(name, root=tmp_path)


def test_a_named_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"'cifar10' is not in '.*': run `congruence data fetch cifar10`, or pass .*root"
    ):
        load("cifar10", root=tmp_path)
    layouts.write_cifar_pickles(tmp_path, COLOUR)
    (tmp_path / "data_batch_4").unlink()
    with pytest.raises(ValueError, match="data_batch_4' is absent"):
        load("cifar10", root=tmp_path)


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    layouts.write_mnist(tmp_path, layouts.content(1, 14))
    with pytest.raises(ValueError, match=r"are \(1, 14, 14\), expected \(1, 28, 28\)"):
        load("fashion-mnist", root=tmp_path)


def test_unknown_names_and_misfits_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no dataset named 'cifar-10', .* Did you mean 'cifar10' or .*\?.*digits, fashion"
    ):
        load("cifar-10")
    with pytest.raises(ValueError, match="`root` must be a folder for 'image-folder', got None"):
        load("image-folder")
    with pytest.raises(ValueError, match="`size` must be None for 'digits', got 8"):
        load("digits", size=8)
    with pytest.raises(ValueError, match="`train_size` must be at most the 1258 training images, got 2000"):
        load("digits", train_size=2000)
    for bad in (-1, 1797, 1.0, 2.5, True, "ten"):
        with pytest.raises(ValueError, match="`validation` must be a number of images below 1797 or a fraction"):
            load("digits", validation=bad)
    with pytest.raises(ValueError, match="`validation` must be fewer than the 97 images left to train on, got 97"):
        load("digits", test=1700, validation=97)
    layouts.write_mnist(tmp_path, GREY)
    with pytest.raises(ValueError, match="`test` must be left out for 'fashion-mnist', which has test images"):
        load("fashion-mnist", root=tmp_path, test=5)


def test_folders(tmp_path: Path) -> None:
    layouts.write_classes(tmp_path, {"cat": 20, "dog": 10})
    splits = load(tmp_path)
    assert [len(part) for part in splits] == [21, 3, 6]
    assert splits.test.labels.bincount().tolist() == [4, 2]
    assert splits.train.class_names == ("cat", "dog")
    assert splits.train.augment.pad == 1
    same = load("image-folder", root=tmp_path)
    assert [part.fingerprint() for part in same] == [part.fingerprint() for part in splits]
    assert load(str(tmp_path), size=4).train.shape == (3, 4, 4)
    with pytest.raises(ValueError, match=r"There is no dataset named '.*nowhere', nor a folder there"):
        load(tmp_path / "nowhere")


def test_folders_with_parts_of_their_own(tmp_path: Path) -> None:
    for part, count in (("train", 5), ("val", 2), ("test", 1)):
        layouts.write_classes(tmp_path / part, {"a": count, "b": count})
    assert [len(part) for part in load(tmp_path)] == [10, 4, 2]
    with pytest.raises(ValueError, match="`validation` must be left out for 'image-folder'"):
        load(tmp_path, validation=1)


def test_folders_without_classes_or_contrast(tmp_path: Path) -> None:
    for number in range(10):
        layouts.write_image(tmp_path / f"{number}.png")
    splits = load(tmp_path)
    assert [len(part) for part in splits] == [7, 1, 2]
    assert splits.train.labels is None
    assert splits.train.classes is None
    for number in range(10):
        Image.new("RGB", (4, 4), (0, 255, 7)).save(tmp_path / f"{number}.png")
    flat = load(tmp_path).train
    assert flat.std == (1.0, 1.0, 1.0)
    assert flat.batch([0]).abs().max() < 1e-6


# Rows that name their classes, and how many these are.
NAMED = {
    "cifar100": 100,
    "digits": 10,
    "fashion-mnist": 10,
    "cifar10": 10,
    "svhn": 10,
}


def test_rows_of_the_table_are_consistent() -> None:
    for name, row in SOURCES.items():
        assert row.name == name
        assert len(set(row.class_names)) == len(row.class_names) == NAMED.get(name, 0)
        if row.package is not None:
            assert all(len(digest) == 64 and int(digest, 16) for _, digest in row.package.files)
            assert row.files
    with pytest.raises(TypeError):
        SOURCES["other"] = SOURCES["digits"]
