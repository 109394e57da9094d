"""A cache over image files notices pixels that change under the same names, lengths and times of writing."""

from __future__ import annotations

import shutil

import pytest
import torch
from _harness.photos import FILES, dataset, overwrite, write_all
from torch import nn

from congruence import Distiller, TeacherCache
from congruence.data import FileDataset, loader
from congruence.evaluation.embed import embed_images
from congruence.evaluation.kept import KeptRows
from congruence.teacher_cache.shown import STAMPS


@pytest.fixture
def photos(tmp_path):
    return write_all(tmp_path / "photos")


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 2))


def rows_of(folder, cache):
    images = dataset(folder)
    given = TeacherCache(net(1), loader(images, batch_size=3, shuffle=False), cache, dtype="float32")
    distiller = Distiller(given, net(2), ["kd"], example=images.batch([0, 1]))
    inputs, labels, index = next(iter(given.loader))
    distiller(inputs, labels, index)
    return given.at(torch.arange(len(FILES)), 0, distiller.bindings.values())("main", {"1"}, None)["1"]


def test_changed_pixels_are_refused_by_name_and_the_cache_is_left(photos, tmp_path):
    first = rows_of(photos, tmp_path / "cache")
    stored = (tmp_path / "cache" / "000.npy").read_bytes()
    overwrite(photos, "2.bmp", 255)
    overwrite(photos, "4.bmp", 255)
    with pytest.raises(ValueError, match=r"'.*cache' was made of other pixels: 2 of 6 image files .* '2\.bmp'"):
        rows_of(photos, tmp_path / "cache")
    assert (tmp_path / "cache" / "000.npy").read_bytes() == stored
    again = rows_of(photos, tmp_path / "another")
    assert torch.equal(again[:2], first[:2])
    assert not torch.equal(again[2], first[2])


def test_copied_files_are_the_same_and_read_once_more(photos, tmp_path, monkeypatch):
    first = rows_of(photos, tmp_path / "cache")
    copied = tmp_path / "copy"
    shutil.copytree(photos, copied, copy_function=shutil.copyfile)
    asked = []
    digests = FileDataset.digests
    monkeypatch.setattr(FileDataset, "digests", lambda self, rows: asked.append(len(rows)) or digests(self, rows))
    assert torch.equal(rows_of(copied, tmp_path / "cache"), first)
    assert torch.equal(rows_of(copied, tmp_path / "cache"), first)
    assert asked == [6, 0]


def test_a_cache_from_before_is_taken_at_its_word_and_a_damaged_record_refused(photos, tmp_path):
    first = rows_of(photos, tmp_path / "cache")
    (tmp_path / "cache" / STAMPS).unlink()
    assert torch.equal(rows_of(photos, tmp_path / "cache"), first)
    (tmp_path / "cache" / STAMPS).write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"'.*cache' is damaged: 'files\.npy' cannot be read"):
        rows_of(photos, tmp_path / "cache")


def test_kept_rows_of_changed_pixels_are_made_again(photos, tmp_path):
    kept, model = KeptRows(tmp_path / "kept"), net(1)
    first = embed_images(model, dataset(photos), kept=kept).features
    assert torch.equal(embed_images(model, dataset(photos), kept=kept).features, first)
    overwrite(photos, "2.bmp", 255)
    again = embed_images(model, dataset(photos), kept=kept).features
    assert torch.equal(again[:2], first[:2])
    assert not torch.equal(again[2], first[2])
