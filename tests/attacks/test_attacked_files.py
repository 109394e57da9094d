"""Files that are cut, flipped, swapped, emptied or gone, over every reader: the right content, or one sentence.

Where a format has checksums the content is what was written; where it has none, it has the form that its reader
promises. `make attack` makes 50 times as many as `make test`.
"""

from __future__ import annotations

import json
import random
import shutil
import warnings

import numpy as np
import pytest
import torch
from _harness import layouts
from _harness.attacks import one_sentence, scale
from _harness.caches import images, opened

from congruence.bench.kept import Shelf
from congruence.data import load, read_reid
from congruence.data.sources import formats
from congruence.data.sources.store import read_arrays, write_arrays
from congruence.models import load_weights, save_weights
from congruence.training.saving.checkpoint import Checkpoints

GREY = layouts.content(1, 28, train=10, test=4)
COLOUR = layouts.content(3, 32, train=10, test=4)
WEIGHTS = {"a": torch.arange(40.0).reshape(8, 5), "b": torch.ones(3, dtype=torch.int64)}
LINES = [{"method": "kd", "variant": "", "seed": n, "factor": 1.0, "accuracy_best": 0.5 + n / 100} for n in range(4)]


def arrays(found, classes):
    """Whether images and labels have the form that all readers promise."""
    for part in (found.train, found.test):
        if part is not None:
            assert part.images.dtype == np.uint8
            assert part.images.ndim == 4
            if part.labels is not None:
                assert part.labels.dtype == np.int64
                assert len(part.labels) == len(part.images)
                assert part.labels.min(initial=0) >= 0
                assert part.labels.max(initial=0) < classes


def splits(found):
    """Decode every image of some data."""
    for part in found:
        if len(part):
            assert part.raw(part.index).dtype == torch.uint8
            labels = torch.as_tensor([] if part.labels is None else part.labels)
            assert not len(labels) or (labels.min() >= -1 and labels.max() < (part.classes or 10**9))


def equal(found, expected):
    """Whether two state dicts are one."""
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def pngs(folder):
    layouts.write_classes(folder / "train", {"cat": 3, "dog": 2})
    layouts.write_classes(folder / "test", {"cat": 1, "dog": 1})


def weights(folder):
    save_weights(WEIGHTS, folder / "w.safetensors")


def plain_weights(folder):
    torch.save(WEIGHTS, folder / "w.pt")


def checkpoints(folder):
    for step in (1, 2):
        Checkpoints(folder).save(step, {"position": {"step": step}, "w": WEIGHTS["a"]})


def checkpoint(folder):
    found = Checkpoints(folder).load()
    if found is not None:
        assert found["position"]["step"] in (1, 2)
        assert torch.equal(found["w"], WEIGHTS["a"])


def texts(folder):
    rows = ({"text": f"t {number}", "label": number % 2} for number in range(9))
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def results(folder):
    trials = [{**line, "accuracy": 0.5} for line in LINES]
    teachers = [{"name": "teacher", "accuracy_best": 0.9}]
    for name, lines in (("results", LINES), ("tuning", trials), ("teachers", teachers)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def result(folder):
    for line in Shelf(folder).lines["results.jsonl"]:
        assert isinstance(line["seed"], int)
        assert isinstance(line.get("accuracy_best"), float | int | None)


def cache(folder):
    opened(folder)


def stored(folder):
    opened(folder, dataset=images())


def own_arrays(folder):
    write_arrays(folder, formats.read_mnist_layout(layouts.write_mnist(folder / "from", GREY)), {"name": "x"})
    shutil.rmtree(folder / "from")


def same_arrays(folder):
    found = read_arrays(folder)
    for a, b in zip((*found.train, *found.test), GREY, strict=True):
        assert np.array_equal(a, b)


# Name: how it is written, how it is read and held to what was written.
READERS = {
    "idx": (lambda f: layouts.write_mnist(f, GREY, suffix=""), lambda f: arrays(formats.read_mnist_layout(f), 10)),
    "idx.gz": (lambda f: layouts.write_mnist(f, GREY), lambda f: arrays(formats.read_mnist_layout(f), 10)),
    "pickle": (lambda f: layouts.write_cifar_pickles(f, COLOUR), lambda f: arrays(formats.read_cifar_pickles(f), 10)),
    "pickle 100": (
        lambda f: layouts.write_cifar100(f, COLOUR),
        lambda f: arrays(formats.read_cifar100_pickles(f), 100),
    ),
    "rows": (lambda f: layouts.write_cifar_rows(f, COLOUR), lambda f: arrays(formats.read_cifar_rows(f), 10)),
    "mat": (lambda f: layouts.write_svhn(f, COLOUR), lambda f: arrays(formats.read_svhn(f), 10)),
    "png": (pngs, lambda f: splits(load(str(f), validation=1))),
    "png streamed": (pngs, lambda f: splits(load(str(f), validation=1, stream=True, size=8))),
    "tiny": (
        lambda f: layouts.write_tiny_imagenet(f, {"n01": 2, "n02": 2}),
        lambda f: splits(load("tiny-imagenet", root=f, validation=1)),
    ),
    "cub": (
        lambda f: layouts.write_cub200(f, {"a": (2, 1), "b": (1, 1)}),
        lambda f: splits(load("cub200", root=f, size=8, validation=1)),
    ),
    "market": (
        lambda f: layouts.write_market1501(f, {2: 2, 11: 2}),
        lambda f: splits(read_reid("market1501", f, size=(16, 8), validation=0).splits),
    ),
    "texts": (texts, lambda f: load(str(f / "texts.jsonl"), validation=1, test=1)),
    "arrays": (own_arrays, same_arrays),
    "safetensors": (weights, lambda f: equal(load_weights(f / "w.safetensors"), WEIGHTS)),
    "pt": (plain_weights, lambda f: equal(load_weights(f / "w.pt"), WEIGHTS)),
    "checkpoint": (checkpoints, checkpoint),
    "results": (results, result),
    "cache": (cache, stored),
}


def harmed(folder, draws):
    """Harm one file of a folder, or two, in one of the ways in which files are harmed."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    path = draws.choice(files)
    content = path.read_bytes()
    at = draws.randrange(len(content) or 1)
    kind = draws.choice(("flip", "flip", "flip", "cut", "grow", "blank", "gone", "empty", "swap", "folder", "noise"))
    if path.suffix == ".mat" and kind in ("flip", "grow", "blank"):
        kind = "cut"  # SciPy's reader can crash on the others
    if kind == "flip":
        for _ in range(draws.choice((1, 1, 8))):
            at = draws.choice((at, draws.randrange(min(200, len(content) or 1))))
            content = (
                content[:at] + bytes([(content[at] if content else 0) ^ 1 << draws.randrange(8)]) + content[at + 1 :]
            )
    elif kind == "cut":
        content = content[:at]
    elif kind == "grow":
        content = content[:at] + draws.randbytes(draws.choice((1, 40, 5000))) + content[at:]
    elif kind == "blank":
        content = content[:at] + bytes(min(64, len(content) - at)) + content[at + 64 :]
    elif kind == "empty":
        content = b""
    elif kind == "swap":
        content = draws.choice(files).read_bytes()
    elif kind == "noise":
        content = draws.randbytes(draws.choice((1, 100, 3000)))
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "gone":
        path.write_bytes(content)
    return kind, path


@pytest.mark.parametrize("name", READERS)
def test_a_harmed_file(name, tmp_path):
    write, read = READERS[name]
    whole, draws, told_of = tmp_path / "whole", random.Random(name), 0
    whole.mkdir()
    write(whole)
    read(whole)
    for number in range((2 if name in ("cache", "market", "tiny") else 3) * scale()):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        how = harmed(folder, draws)
        if name == "cache" and how[1].suffix in (".npy", ".rows") and how[0] in ("flip", "blank", "swap"):
            continue  # its rows have no checksums
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with one_sentence(str(folder), seconds=10) as told:
                    read(folder)
            except BaseException as error:
                error.add_note(f"{name}: {how}")
                raise
        told_of += bool(told)
        shutil.rmtree(folder)
    assert told_of or scale() == 1 or name == "checkpoint"  # the one before is taken
