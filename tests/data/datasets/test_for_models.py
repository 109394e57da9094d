"""`for_models`: the same pixels, drawn once, at each model's size and normalisation."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from congruence import Inputs
from congruence.data import ArrayDataset, Augment, FileDataset, ImageInput, PhotoAugment, loader
from congruence.data.datasets.model_facts import ModelFacts

IMAGES = torch.randint(0, 256, (22, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
PLAIN = ArrayDataset(IMAGES, torch.arange(22) % 5, classes=5, mean=[0.5] * 3, std=[0.25] * 3)
LARGE = ImageInput((0.1, 0.2, 0.3), (1.0, 0.5, 0.25), size=(12, 10), interpolation="bicubic")
BOTH = PLAIN.for_models(teacher=LARGE)
FORKS = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    names = [f"{number}.png" for number in range(10)]
    rows = np.random.default_rng(0).integers(0, 256, (10, 14, 12, 3), dtype=np.uint8)
    for name, pixels in zip(names, rows, strict=True):
        Image.fromarray(pixels).save(folder / name)
    about = {"size": (8, 8), "resize": 9, "classes": 2, "mean": [0.5] * 3, "std": [0.25] * 3}
    return FileDataset(folder, names, torch.arange(10) % 2, augment=PhotoAugment(), **about)


def flat(batch):
    """Return the tensors of a batch by name."""
    inputs, labels, index = batch if isinstance(batch, tuple) else (batch["views"], batch["labels"], batch["index"])
    views = inputs if isinstance(batch, dict) else {"main": inputs}
    parts = {f"{view} {model}": tensor for view, each in views.items() for model, tensor in each.items()}
    return {**parts, "labels": labels, "index": index}


def same(one, other):
    one, other = flat(one), flat(other)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("view", ["main", "clean", "strong"])
def test_each_model_sees_the_same_pixels_its_own_way(view):
    drawing = {"epoch": 2, "seed": 5, "augment": Augment(pad=2), "view": view}
    pixels = PLAIN.drawn([3, 9, 4], **drawing)
    batch = BOTH.batch([3, 9, 4], **drawing)
    assert isinstance(batch, Inputs)
    assert list(batch) == ["student", "teacher"]
    assert torch.equal(batch["teacher"], LARGE(pixels))
    assert torch.equal(batch["student"], PLAIN.batch([3, 9, 4], **drawing))


def test_an_image_does_not_depend_on_its_batch():
    whole = BOTH.batch(range(22))["teacher"]
    for at in (0, 7, 21):
        assert torch.equal(BOTH.batch([at])["teacher"][0], whole[at])


@FORKS
@pytest.mark.parametrize("views", [("main",), ("weak", "strong", "clean")])
def test_workers_resumption_and_cycles_give_the_same_bits(files, views):
    dataset = files.for_models(teacher=LARGE, student=ImageInput((0.0,) * 3, (1.0,) * 3, size=(6, 6)))

    def made(**more):
        return loader(dataset, batch_size=4, seed=7, augment=True, views=views, **more)

    here, cycle = made(), made(view_cycle=2, workers=2)
    epochs = [list(here.batches(epoch)) for epoch in range(2)]
    assert flat(epochs[0][0])[f"{views[0]} teacher"].shape == (4, 3, 12, 10)
    assert flat(epochs[0][0])[f"{views[0]} student"].shape == (4, 3, 6, 6)
    for epoch in range(2):
        assert all(map(same, epochs[epoch], cycle.batches(epoch)))
    assert all(map(same, epochs[1][1:], made(workers=2).batches(1, start=1)))
    third = {int(i): row for batch in cycle.batches(2) for i, row in zip(batch_index(batch), rows(batch), strict=True)}
    first = {int(i): row for batch in epochs[0] for i, row in zip(batch_index(batch), rows(batch), strict=True)}
    assert all(torch.equal(first[at], third[at]) for at in first)


def batch_index(batch):
    return flat(batch)["index"]


def rows(batch):
    return next(value for key, value in flat(batch).items() if key.endswith("teacher"))


def test_subsets_orders_and_the_stock_loader():
    some = BOTH.subset([4, 2])
    assert torch.equal(some.batch([1])["teacher"], BOTH.batch([2])["teacher"])
    inputs, _, index = next(iter(loader(BOTH, batch_size=4).in_order(0, 3, torch.tensor([5, 1]))))
    assert index.tolist() == [5, 1]
    assert torch.equal(inputs["student"], PLAIN.batch([5, 1]))
    collated, labels = next(iter(DataLoader(BOTH, batch_size=3)))
    assert isinstance(collated, Inputs)
    assert labels.tolist() == [0, 1, 2]
    assert all(torch.equal(collated[name], tensor) for name, tensor in BOTH.batch(range(3)).items())


def test_the_fingerprint_tells_the_inputs_and_stays_without_them(files):
    for dataset in (PLAIN, files):
        own = dataset.for_models(teacher=LARGE)
        other = dataset.for_models(teacher=ImageInput((0.1, 0.2, 0.3), (1.0, 0.5, 0.25), size=(12, 10)))
        assert len({dataset.fingerprint(), own.fingerprint(), other.fingerprint()}) == 3
        assert dataset.for_models(teacher=LARGE).fingerprint() == own.fingerprint()
    # of before there were inputs
    assert PLAIN.fingerprint() == "e52702a1b57a60d3f97638dcdc4d1f9ae6f9ca9aca77e6b96365aabfc300c111"


def test_the_facts_are_of_each_models_own(files):
    assert ModelFacts.of(BOTH) == ModelFacts.of(PLAIN)
    assert ModelFacts.of(loader(BOTH, batch_size=4), "teacher", "teacher") == ModelFacts(
        (3, 12, 10), LARGE.mean, LARGE.std, None, 5
    )
    assert ModelFacts.of(files).resize == 9
    small = files.for_models(student=ImageInput((0.5,) * 3, (0.25,) * 3, size=(16, 16)))
    assert (ModelFacts.of(small).shape, ModelFacts.of(small).resize) == ((3, 16, 16), 18)
    assert ModelFacts.of(small, "big", "teacher").shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"teacher": ImageInput((0.5,), (0.5,))}, "for images of 3 channels, got 1 in the mean of 'teacher'"),
        ({"teacher": (8, 8)}, "an ImageInput for each model, by its name, got tuple as 'teacher'"),
        ({}, "an ImageInput for each model, by its name, got {}"),
    ],
)
def test_what_is_wrong_is_told(inputs, sentence):
    with pytest.raises(ValueError, match=f"`ArrayDataset`: `inputs` must be {sentence}"):
        PLAIN.for_models(**inputs)
