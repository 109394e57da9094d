"""Images as one array of bytes."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from congruence.data import ArrayDataset, Augment, keep_labels, normalize, pad_crop_flip

IMAGES = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 4
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def dataset(**changes: object) -> ArrayDataset:
    given = {"images": IMAGES, "labels": LABELS, "classes": 4, "mean": MEAN, "std": STD, "name": "toy"} | changes
    return ArrayDataset(given.pop("images"), given.pop("labels"), **given)


@pytest.fixture(params=["tensor", "array", "memmap"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> ArrayDataset:
    if request.param == "memmap":
        np.save(tmp_path / "images.npy", IMAGES.numpy())
        return dataset(images=np.load(tmp_path / "images.npy", mmap_mode="r"))
    return dataset(images=IMAGES if request.param == "tensor" else IMAGES.numpy())


def test_items_and_batches_agree(data: ArrayDataset) -> None:
    expected = normalize(IMAGES, MEAN, STD)
    assert len(data) == 20
    assert data.shape == (3, 8, 8)
    assert torch.equal(data.batch([3, 1, 3]), expected[[3, 1, 3]])
    image, label = data[-1]
    assert torch.equal(image, expected[19])
    assert label == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inputs, labels = next(iter(DataLoader(data, batch_size=20)))
    assert torch.equal(inputs, expected)
    assert torch.equal(labels, LABELS)


def test_plain_iteration_ends(data: ArrayDataset) -> None:
    with pytest.raises(IndexError, match=r"`indices` must be in \[0, 20\), got 20 to 20"):
        data[20]
    with pytest.raises(IndexError):
        data[-21]


def test_augmented_batch_is_crop_then_normalise(data: ArrayDataset) -> None:
    index = torch.tensor([7, 2])
    spec = Augment(pad=2)
    crops = pad_crop_flip(IMAGES[index], index, augment=spec, seed=5, epoch=3, view="weak")
    got = data.batch(index, epoch=3, seed=5, augment=spec, view="weak", device="cpu")
    assert torch.equal(got, normalize(crops, MEAN, STD))
    assert torch.equal(data.batch(index, augment=spec, view="clean"), data.batch(index))
    assert torch.equal(data.batch(index, augment=True), data.batch(index, augment=Augment()))


def test_a_subset_counts_its_own_positions(data: ArrayDataset) -> None:
    part = data.subset([5, 3, 11]).subset(torch.tensor([2, 0]))
    assert part.index.tolist() == [0, 1]
    assert part.labels is not None
    assert part.labels.tolist() == [3, 1]
    assert torch.equal(part.batch([0, 1]), data.batch([11, 5]))
    spec = Augment(pad=2)
    crops = pad_crop_flip(IMAGES[[11, 5]], torch.arange(2), augment=spec, seed=0, epoch=0)
    assert torch.equal(part.batch([0, 1], augment=spec), normalize(crops, MEAN, STD))
    assert len(data.subset([])) == 0


def test_a_batch_is_the_callers_own(data: ArrayDataset) -> None:
    data.raw([0]).fill_(0)
    data.batch([0]).fill_(0)
    assert torch.equal(data.raw([0]), IMAGES[:1])


def test_fingerprint_is_of_the_content(data: ArrayDataset) -> None:
    other = IMAGES.clone()
    other[3, 0, 0, 0] += 1
    mark = data.fingerprint()
    assert len(mark) == 64
    assert mark == dataset().fingerprint()
    assert data.subset(range(20)).fingerprint() == mark
    assert data.subset([1, 0]).fingerprint() == dataset(images=IMAGES[[1, 0]], labels=LABELS[[1, 0]]).fingerprint()
    changed = [
        dataset(images=other),
        dataset(labels=(LABELS + 1) % 4),
        dataset(labels=None),
        dataset(mean=(0.1, 0.2, 0.3)),
        data.subset(range(19)),
    ]
    assert len({mark, *(item.fingerprint() for item in changed)}) == 6
    assert dataset(labels=None).fingerprint(labels=False) == data.fingerprint(labels=False)


def test_without_labels_items_say_minus_one() -> None:
    assert [dataset(labels=None)[i][1] for i in (0, 5)] == [-1, -1]
    assert dataset(labels=None).subset([1]).labels is None


def test_keep_labels_forgets_all_but_some() -> None:
    data = dataset()
    kept = keep_labels(data, 2, seed=1)
    assert kept.labels is not None
    known = kept.labels >= 0
    assert kept.labels[known].bincount().tolist() == [2, 2, 2, 2]
    assert torch.equal(kept.labels[known], LABELS[known])
    assert torch.equal(kept.batch(range(20)), data.batch(range(20)))
    assert torch.equal(data.labels, LABELS)
    assert torch.equal(keep_labels(data, 2, seed=1).labels, kept.labels)
    assert any(not torch.equal(keep_labels(data, 2, seed=s).labels, kept.labels) for s in range(2, 5))
    open_set = dataset(labels=LABELS * 10, classes=None)
    assert (keep_labels(open_set, 5).labels == LABELS * 10).all()
    with pytest.raises(ValueError, match="got 6 with only 5 in class 0"):
        keep_labels(open_set, 6)
    with pytest.raises(ValueError, match="got 1 with only 0 in class 4"):
        keep_labels(dataset(classes=5), 1)
    with pytest.raises(ValueError, match="`dataset` must be one with labels"):
        keep_labels(dataset(labels=None), 1)
    with pytest.raises(ValueError, match="no label at all"):
        keep_labels(dataset(labels=torch.full((20,), -1)), 1)
    with pytest.raises(ValueError, match="`per_class` must be an integer >= 1"):
        keep_labels(data, 0)


def test_frozen_picklable_and_described() -> None:
    data = dataset()
    with pytest.raises(AttributeError):
        data.name = "other"
    again = pickle.loads(pickle.dumps(data))
    assert again.fingerprint() == data.fingerprint()
    assert repr(data) == "ArrayDataset('toy', 20 images (3, 8, 8), classes=4)"
    assert data.subset([2]).to("cpu").fingerprint() == data.subset([2]).fingerprint()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images": IMAGES[0]}, "`images` must be an array"),
        ({"images": IMAGES.float()}, "`images` must be of type uint8, got torch.float32"),
        ({"images": "text"}, "got str"),
        ({"labels": LABELS[:3]}, r"as many as there are images \(20\), got 3"),
        ({"labels": LABELS + 1}, "-1 .* below 4, got values from 1 to 4"),
        ({"labels": LABELS - 2, "classes": None}, "got values from -2 to 1"),
        ({"labels": LABELS.float()}, "`labels`"),
        ({"mean": (0.5,)}, "`mean` must be 3 numbers"),
        ({"std": (0.5, 0.5, 0.0)}, "`std` must be 3 numbers > 0"),
        ({"classes": 0}, "`classes` must be an integer >= 1"),
    ],
)
def test_what_does_not_fit_is_one_sentence(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        dataset(**changes)


def test_indices_must_be_integers() -> None:
    with pytest.raises(ValueError, match="`indices` must be a 1-D list of integers"):
        dataset().batch(torch.tensor([0.5]))
    with pytest.raises(ValueError, match="`indices` must be a 1-D list of integers"):
        dataset().subset(LABELS == 1)
