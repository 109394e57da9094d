"""Classes that are never trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from _harness import layouts

from congruence.data import load
from congruence.data.datasets.split import new_order


@pytest.mark.parametrize("seed", [0, 1])
def test_digits_without_a_test_set_give_all_images_of_the_classes_held_out(seed: int) -> None:
    splits = load("digits", test_classes=3, split_seed=seed, validation=0.25)
    order = new_order(10, 3, seed=seed)
    names = tuple(str(number) for number in order)
    whole = load("digits", validation=0, test=0).train
    sides = (splits.train, splits.validation, splits.test)
    assert [part.classes for part in sides] == [7, 7, 10]
    assert [part.class_names for part in sides] == [names[:7], names[:7], names]
    seen = int(torch.isin(whole.labels, torch.tensor(order[:7])).sum())
    assert [len(part) for part in sides] == [seen - round(0.25 * seen), round(0.25 * seen), len(whole) - seen]
    assert sorted(set(splits.test.labels.tolist())) == [7, 8, 9]
    for part in (splits.train, splits.validation):
        assert sorted(set(part.labels.tolist())) == list(range(7))
    # Each image keeps its digit: its label's name is the one it had.
    known = {bytes(image.numpy()): str(int(label)) for image, label in zip(_raw(whole), whole.labels, strict=True)}
    for part in sides:
        for image, label in zip(_raw(part), part.labels, strict=True):
            assert names[label] == known[bytes(image.numpy())]


def _raw(dataset):
    return dataset.raw(dataset.index)


def test_a_published_test_set_gives_its_own_images_of_those_classes(tmp_path: Path) -> None:
    data = layouts.content(1, 28)
    layouts.write_mnist(tmp_path, data)
    splits = load("fashion-mnist", root=tmp_path, test_classes=4, validation=6)
    order = new_order(10, 4, seed=0)
    expected = np.isin(data.test_labels, order[6:])
    assert np.array_equal(_raw(splits.test), data.test_images[expected])
    assert [order[label] for label in splits.test.labels.tolist()] == data.test_labels[expected].tolist()
    assert [len(splits.train), len(splits.validation)] == [24, 6]


def test_among_the_first_classes_and_few_images() -> None:
    splits = load("digits", classes=5, test_classes=2, train_size=30)
    assert set(splits.test.class_names) == set("01234")
    assert len(splits.train) == 30
    assert splits.train.labels.bincount().tolist() == [10, 10, 10]
    assert set(splits.test.labels.tolist()) == {3, 4}


def test_image_files_too(tmp_path: Path) -> None:
    layouts.write_classes(tmp_path, {"ann": 6, "bob": 6, "cy": 6}, size=(8, 8))
    whole, streamed = (load(tmp_path, test_classes=1, validation=2, size=8, stream=stream) for stream in (False, True))
    held = new_order(3, 1, seed=0)[-1]
    assert whole.test.class_names[2] == ("ann", "bob", "cy")[held]
    assert whole.test.labels.tolist() == [2] * 6
    for one, other in zip(whole, streamed, strict=True):
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(_raw(one), _raw(other))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"test_classes": 10}, "`load`: `test_classes` must be below the 10 classes of 'digits', got 10."),
        ({"test_classes": 3, "classes": 3}, "`load`: `test_classes` must be below the 3 classes of 'digits', got 3."),
        ({"test_classes": 3, "test": 0.2}, "`load`: `test` must be left out where `test_classes` are the test part"),
        ({"test_classes": 0}, "`load`: `test_classes` must be"),
    ],
)
def test_what_does_not_fit(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError) as raised:
        load("digits", **arguments)
    assert str(raised.value).startswith(sentence)
