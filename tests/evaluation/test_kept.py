"""Rows of a model that are kept in files: found where they are of the same model and images, else made again."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import congruence as cg
from congruence.evaluation import embed
from congruence.evaluation.embed import embed_images
from congruence.evaluation.kept import KeptRows
from congruence.models.fingerprint import model_fingerprint
from congruence.models.untaught import mark_parts


class Counting(nn.Module):
    """A network that counts the images it sees."""

    def __init__(self, seed=0, classes=10):
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.head = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh()), nn.Linear(12, classes)

    def forward(self, images):
        SEEN.append(len(images))
        return self.head(self.body(images))


SEEN: list[int] = []


@pytest.fixture
def images():
    SEEN.clear()
    return cg.data.load("digits", train_size=130, validation=10, test=60).train


def seen(model, images, kept, **options):
    before = sum(SEEN)
    return embed_images(model, images, kept=kept, **options), sum(SEEN) - before


def same(one, other):
    for mine, theirs in zip(one[:3], other[:3], strict=True):
        assert (mine is None) == (theirs is None)
        assert mine is None or torch.equal(mine, theirs)
    assert all(map(torch.equal, one.head or (), other.head or ()))
    assert one.left_out == other.left_out


def test_rows_are_found_again_and_are_those_of_embed(images, tmp_path):
    kept = KeptRows(tmp_path / "rows")
    first, whole = seen(Counting(), images, kept)
    again, few = seen(Counting(), images, KeptRows(tmp_path / "rows"))
    assert whole >= 130 > few  # a batch says which layers are read
    same(first, again)
    same(first, embed_images(Counting(), images))
    same(first, embed(Counting(), cg.data.loader(images, batch_size=50, shuffle=False)))


@pytest.mark.parametrize("other", ["weights", "images", "labels", "normalisation", "batch norm", "threads"])
def test_rows_of_something_else_are_not_taken(images, tmp_path, other, monkeypatch):
    kept, model, shown = KeptRows(tmp_path), Counting(), images
    seen(model, images, kept)
    if other == "weights":
        with torch.no_grad():
            model.head.bias[0] += 1e-3
    elif other == "batch norm":
        model.body.append(nn.BatchNorm1d(12))
    elif other == "images":
        shown = images.subset(range(129, -1, -1))
    elif other == "labels":
        shown = dataclasses.replace(images, labels=images.labels.roll(1))
    elif other == "normalisation":
        shown = dataclasses.replace(images, mean=[0.25])
    else:
        monkeypatch.setattr(torch, "get_num_threads", lambda: 97)
    found, count = seen(model, shown, kept)
    assert count >= 130
    same(found, embed_images(model, shown))


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "another's"])
def test_a_damaged_file_is_made_again(images, tmp_path, damage, caplog):
    kept = KeptRows(tmp_path)
    first, _ = seen(Counting(), images, kept)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    changed = bytearray(content)
    changed[-5] ^= 1
    seen(Counting(1), images, kept)
    (theirs,) = set(tmp_path.iterdir()) - {path}
    bad = {"cut": content[:-100], "changed": bytes(changed), "empty": b"", "another's": theirs.read_bytes()}
    path.write_bytes(bad[damage])
    again, count = seen(Counting(), images, kept)
    assert count >= 130
    same(first, again)
    assert path.read_bytes() == content


def test_the_folder_stays_within_its_bound(images, tmp_path):
    seen(Counting(), images, KeptRows(tmp_path))
    size = next(tmp_path.iterdir()).stat().st_size
    seen(Counting(1), images, KeptRows(tmp_path, most=size - 1))
    assert len(list(tmp_path.iterdir())) == 1
    for seed in (2, 3, 4):
        seen(Counting(seed), images, KeptRows(tmp_path, most=2 * size + 1))
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2 * size + 1
    assert seen(Counting(4), images, KeptRows(tmp_path))[1] < 130
    with pytest.raises(ValueError, match="`KeptRows`: `most` must be an integer >= 1, got 0"):
        KeptRows(tmp_path, most=0)


def test_where_nothing_can_be_written_nothing_is_kept(images, tmp_path):
    (tmp_path / "rows").write_text("a file in the folder's place")
    for _ in range(2):
        found, count = seen(Counting(), images, KeptRows(tmp_path / "rows"))
        assert count >= 130
    same(found, embed_images(Counting(), images))


def test_a_model_that_cannot_be_told_from_another_has_no_rows(images, tmp_path):
    model = Counting()
    model.session = (number for number in range(3))
    assert model_fingerprint(model).unreadable
    for _ in range(2):
        assert seen(model, images, KeptRows(tmp_path / "rows"))[1] >= 130
    assert not (tmp_path / "rows").exists()
    model.fingerprint = "mine"
    seen(model, images, KeptRows(tmp_path / "rows"))
    assert seen(model, images, KeptRows(tmp_path / "rows"))[1] < 130


def test_what_means_nothing_is_left_out_of_found_rows_too(images, tmp_path):
    kept = KeptRows(tmp_path)
    for _ in range(2):
        wide, _ = seen(Counting(classes=7), images, kept, name="teacher")
        assert (wide.logits, wide.head) == (None, None)
        assert wide.left_out == "the teacher's output has 7 columns, the data 10 classes"
    taught, _ = seen(Counting(), images, kept)
    assert taught.logits is not None
    untaught = Counting()
    mark_parts(untaught, ["head"])
    found, _ = seen(untaught, images, kept)
    assert found.logits is None
    assert "no term taught" in found.left_out


def test_two_may_write_at_once(tmp_path):
    rows = {"features": torch.arange(3000.0).reshape(300, 10)}

    def both(_):
        kept = KeptRows(tmp_path)
        kept.keep({"model": "a"}, rows)
        found = kept.find({"model": "a"})
        return found is not None and torch.equal(found["features"], rows["features"])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(both, range(40)))
    assert len(list(tmp_path.iterdir())) == 1
