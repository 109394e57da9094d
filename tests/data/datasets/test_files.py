"""Images that stay in their files: the bits of an array, with any number of workers, from any batch on."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _harness import layouts
from PIL import Image
from torch import Tensor

from congruence.core.rng import get_state, keyed_uniform
from congruence.data import (
    ArrayDataset,
    Augment,
    ClassUniformSampler,
    FileDataset,
    PhotoAugment,
    Splits,
    facts,
    keep_labels,
    load,
    loader,
)
from congruence.data.augment.crops import view_stream
from congruence.data.augment.photos import DRAWS, augmented
from congruence.data.datasets.decode import opened
from congruence.data.sources import load as sources

FORKS = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
TURNED = PhotoAugment(rotation=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen photographs of three classes, of several sizes."""
    root = tmp_path_factory.mktemp("photographs")
    sides = itertools.cycle([(20, 30), (30, 20), (24, 24)])
    for position, (name, count) in enumerate({"a": 5, "b": 4, "c": 4}.items()):
        for number in range(count):
            layouts.write_image(root / name / f"{number}.png", size=next(sides), seed=100 * position + number)
    return root


def streamed(folder: Path, **more: Any) -> Splits:
    return load(folder, size=16, stream=True, validation=0, test=0, **more)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return len(one) == len(other) and all(itertools.starmap(same, zip(one, other, strict=True)))


@pytest.mark.parametrize("augment", [None, Augment(pad=3)])
def test_a_stream_has_the_bits_of_an_array(folder: Path, augment: Augment | None) -> None:
    in_files, in_memory = (load(folder, size=16, stream=stream) for stream in (True, False))
    for files, array in zip(in_files, in_memory, strict=True):
        assert isinstance(files, FileDataset)
        assert isinstance(array, ArrayDataset)
        assert len(files) == len(array) > 0
        assert (files.shape, files.mean, files.std, files.augment) == (
            array.shape,
            array.mean,
            array.std,
            array.augment,
        )
        assert same(files.labels, array.labels)
        pairs = (loader(part, batch_size=4, augment=augment, seed=3) for part in (files, array))
        assert all(itertools.starmap(same, zip(*(part.batches(2) for part in pairs), strict=True)))
    assert facts(in_files.train).classes == 3


@pytest.mark.parametrize("views", [("main",), ("weak", "strong", "clean")])
@pytest.mark.parametrize("augment", [TURNED, PhotoAugment(crop="resized"), Augment(pad=2)])
def test_any_step_of_any_epoch_resumes_bit_for_bit(folder: Path, views: tuple[str, ...], augment: Any) -> None:
    data = streamed(folder, resize=18).train
    epochs = [list(loader(data, batch_size=4, seed=7, augment=augment, views=views).batches(epoch)) for epoch in (0, 1)]
    for epoch, start in itertools.product(range(2), range(4)):
        rest = loader(data, batch_size=4, seed=7, augment=augment, views=views).batches(epoch, start)
        assert same(list(rest), epochs[epoch][start:])
    assert not same(epochs[0], epochs[1])
    if len(views) > 1:
        batch = epochs[1][0]
        assert not same(batch["views"]["weak"], batch["views"]["strong"])
        assert same(batch["views"]["clean"], data.batch(batch["index"]))


@FORKS
@pytest.mark.parametrize("augment", [TURNED, Augment(pad=2)])
def test_workers_give_the_same_bits(folder: Path, augment: Any) -> None:
    before, data = get_state(), streamed(folder, resize=18).train
    views = ("main", "other")
    batches = [
        list(loader(data, batch_size=4, seed=1, augment=augment, views=views, workers=workers).batches(2, start=1))
        for workers in (0, 2)
    ]
    assert same(*batches)
    assert len(batches[0]) == 3
    assert torch.equal(before["torch"], get_state()["torch"])


def test_draws_depend_on_seed_epoch_sample_and_view_alone(folder: Path) -> None:
    data = streamed(folder, resize=(18, 20)).train
    assert isinstance(data, FileDataset)
    for seed, epoch, view, sample in ((3, 2, "main", 11), (0, 5, "weak", 4)):
        numbers = keyed_uniform(seed, epoch, torch.tensor([sample]), DRAWS, stream=view_stream(view))[0].tolist()
        photo = opened(data.root / data.files[sample])
        expected = np.asarray(augmented(photo, numbers, augment=TURNED, size=(16, 16), resize=(18, 20)))
        drawn = data.drawn([1, sample], epoch=epoch, seed=seed, augment=TURNED, view=view)[1]
        assert np.array_equal(drawn, expected.transpose(2, 0, 1))
    chosen = data.subset([11, 4])
    moved = chosen.drawn([0, 1], augment=TURNED)
    assert torch.equal(moved, data.subset([11, 4]).drawn([0, 1], augment=TURNED))
    assert torch.equal(chosen.raw([0]), data.raw([11]))


def test_it_is_a_dataset_as_arrays_are(folder: Path) -> None:
    data = streamed(folder).train
    image, label = data[-1]
    assert torch.equal(image, data.batch([12])[0])
    assert (label, len(data), data.classes, data.class_names) == (2, 13, 3, ("a", "b", "c"))
    part = data.subset(torch.tensor([12, 0, 5]))
    assert part.labels is not None
    assert part.labels.tolist() == [2, 0, 1]
    assert torch.equal(part.batch([2]), data.batch([5]))
    kept = keep_labels(data, 2, seed=0)
    assert isinstance(kept, FileDataset)
    assert kept.labels is not None
    assert int((kept.labels >= 0).sum()) == 6
    sampler = ClassUniformSampler(facts(data).labels, batch_size=6, k=2)
    for _, labels, _ in loader(data, batch_size=6, sampler=sampler, augment=True):
        assert sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2]
    with pytest.raises(IndexError, match="`FileDataset`: `indices` must be in"):
        data.batch([13])


def test_fingerprints_tell_files_apart_without_decoding(folder: Path, tmp_path: Path) -> None:
    layouts.write_classes(tmp_path, {"a": 2, "b": 2})
    first = streamed(tmp_path, mean=[0.5] * 3, std=[0.2] * 3).train
    assert first.fingerprint() == streamed(tmp_path, mean=[0.5] * 3, std=[0.2] * 3).train.fingerprint()
    others = [
        streamed(folder, mean=[0.5] * 3, std=[0.2] * 3).train,
        streamed(tmp_path, mean=[0.5] * 3, std=[0.3] * 3).train,
        streamed(tmp_path, mean=[0.5] * 3, std=[0.2] * 3, resize=17).train,
        first.subset([0, 1, 2]),
        keep_labels(first, 1),
    ]
    assert first.fingerprint() not in {other.fingerprint() for other in others}
    assert first.fingerprint(labels=False) == keep_labels(first, 1).fingerprint(labels=False)
    (tmp_path / "a/0.png").write_bytes(b"shorter")
    assert len(first.fingerprint()) == 64
    (tmp_path / "a/0.png").unlink()
    with pytest.raises(ValueError, match=r"The file '.*0\.png' is absent\."):
        first.fingerprint()


@FORKS
@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_file_is_one_sentence_when_its_batch_comes(tmp_path: Path, workers: int) -> None:
    layouts.write_classes(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "a/3.png").write_bytes(b"no image")
    data = streamed(tmp_path, mean=[0.5] * 3, std=[0.2] * 3).train
    batches = iter(loader(data, batch_size=2, shuffle=False, workers=workers))
    assert next(batches)[2].tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"^The file '[^']*3\.png' is damaged: it cannot be decoded as an image\.$"):
        next(batches)


def test_what_is_large_is_streamed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = load(folder, size=16)
    assert isinstance(kept.train, ArrayDataset)
    monkeypatch.setattr(sources, "STREAM_ABOVE", 13 * 3 * 16 * 16)
    assert isinstance(load(folder, size=16).train, ArrayDataset)
    monkeypatch.setattr(sources, "STREAM_ABOVE", 13 * 3 * 16 * 16 - 1)
    assert isinstance(load(folder, size=16).train, FileDataset)
    assert isinstance(load(folder, size=16, stream=False).train, ArrayDataset)
    with pytest.raises(ValueError, match="`load`: `size` must be given for images that are decoded for each batch"):
        load(folder)


def test_a_resize_streams_and_crops(folder: Path) -> None:
    data = load(folder, size=(16, 12), resize=20, test=0, validation=0).train
    assert isinstance(data, FileDataset)
    assert data.shape == (3, 16, 12)
    whole = np.asarray(Image.open(folder / "a/0.png"))
    assert np.array_equal(data.raw([0])[0], whole[2:18, 9:21].transpose(2, 0, 1))


def test_moments_of_a_stream_are_those_of_a_seeded_sample(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from congruence.data.sources import splitting as parts

    monkeypatch.setattr(parts, "SAMPLED", 6)
    data, again, other = (streamed(folder, split_seed=seed).train for seed in (0, 0, 1))
    assert (data.mean, data.std) == (again.mean, again.std)
    assert data.mean != other.mean
    close = [
        chosen
        for chosen in itertools.combinations(range(13), 6)
        if data.mean == pytest.approx((data.raw(chosen).double() / 255).mean((0, 2, 3)).tolist(), rel=1e-9)
    ]
    assert len(close) == 1
    assert torch.as_tensor(facts(data).labels)[list(close[0])].bincount().tolist() == [2, 2, 2]


def test_given_moments_are_kept(folder: Path) -> None:
    for stream in (True, False):
        data = load(folder, size=16, stream=stream, mean=[0.4, 0.5, 0.6], std=[0.1, 0.2, 0.3]).train
        assert (data.mean, data.std) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))


def test_grey_folders_stay_grey(tmp_path: Path) -> None:
    layouts.write_classes(tmp_path, {"a": 2, "b": 2}, mode="L")
    grey, array = (load(tmp_path, size=8, stream=stream, test=0, validation=0).train for stream in (True, False))
    assert grey.shape == (1, 8, 8)
    assert torch.equal(grey.batch([0, 3]), array.batch([0, 3]))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"stream": 1}, "`load`: `stream` must be True or False, got 1"),
        ({"resize": 8}, "`FileDataset`: `resize` must be enough to crop 16x16 from, got 8"),
        ({"resize": (20, 15)}, "`FileDataset`: `resize` must be enough to crop 16x16 from"),
        ({"resize": 0}, "`load`: `resize` must be an integer >= 1, got 0"),
        ({"resize": 20, "stream": False}, "`load`: `resize` must be left out where `stream` is False, got 20"),
        ({"mean": [0.5] * 3}, "`load`: `mean and std` must be given together"),
        ({"mean": [0.5], "std": [0.5]}, "`mean` must be 3 numbers, one a channel, got"),
        ({"mean": [0.5] * 3, "std": [0.0] * 3}, "`std` must be 3 numbers > 0, one a channel, got"),
        ({"classes": 4}, "`load`: `classes` must be at most the 3 classes of 'image-folder', got 4"),
    ],
)
def test_misfits_are_one_sentence(folder: Path, more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=rf"^.*{sentence}.*\.$"):
        load(folder, **{"size": 16, **more})


def test_augmentations_that_do_not_fit_are_refused(folder: Path) -> None:
    files, array = (load(folder, size=16, stream=stream).train for stream in (True, False))
    with pytest.raises(ValueError, match="`ArrayDataset`: `augment` must be an Augment"):
        loader(array, batch_size=2, augment=TURNED)
    with pytest.raises(ValueError, match=r"`FileDataset`: `augment.sides` must be >= 16 to crop 16x16 from"):
        loader(files, batch_size=2, augment=PhotoAugment(sides=(12, 20)))
    for argument, value in (("stream", True), ("resize", 20)):
        with pytest.raises(ValueError, match=f"`{argument}` must be left out for 'digits', whose images are one array"):
            load("digits", **{argument: value})


def test_the_first_classes_alone(folder: Path) -> None:
    for stream in (True, False):
        splits = load(folder, size=16, stream=stream, classes=2, test=0.25, validation=0)
        assert [len(part) for part in splits] == [7, 0, 2]
        assert (splits.train.classes, splits.train.class_names) == (2, ("a", "b"))
        assert torch.as_tensor(splits.train.labels).bincount().tolist() == [4, 3]
