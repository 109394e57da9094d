"""What a cache stores of a sample is the same bits whoever is in its batch, and is stored at its own place alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from congruence import models
from congruence.models.teacher import Teacher
from congruence.teacher_cache.answers import CHUNK, Answers
from congruence.teacher_cache.cache_files import CacheFiles
from congruence.teacher_cache.stored_rows import StoredRows


def asked(name, dtype):
    torch.manual_seed(0)
    network = models.build(name, classes=10)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2.0)
    teacher = Teacher(network.to(dtype))
    teacher.taps.probe(torch.randn(2, 3, 16, 16), training=False)
    teacher.taps.require(["output"])
    return Answers(teacher, "float32")


@pytest.mark.parametrize("name", ["resnet20", "cnn3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_position_of_a_chunk_gives_the_same_bits_with_any_mates(name, dtype):
    answers, images = asked(name, dtype), torch.randn(CHUNK, 3, 16, 16)
    (alone,) = answers.of(images[:1], ["output"]).values()  # a chunk that is filled up with itself
    for place in range(CHUNK):
        batch = torch.randn(CHUNK, 3, 16, 16) * (1 + place)
        batch[place] = images[0]
        assert np.array_equal(answers.of(batch, ["output"])["output"][place : place + 1], alone)
    assert not answers.depend_on_mates(images, ["output"])
    together = answers.of(images.repeat(3, 1, 1, 1)[:70], ["output"], np.arange(69, -1, -1))["output"]
    assert np.array_equal(together[69], alone[0])
    assert np.array_equal(together[0], answers.of(images, ["output"])["output"][5])


@pytest.mark.parametrize("shape", [(2, 50, 3), (1, 50), (3, 50, 2, 5)])
def test_rows_are_written_at_their_places(tmp_path, shape):
    files = CacheFiles(tmp_path, {"a": 1}, "float32")
    pair = [files.open({("main", "x"): shape})["main", "x"] for _ in range(2)]  # as two processes have it
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    draw = np.random.default_rng(1)
    while not all(rows.complete for rows in pair):
        for rows in pair:
            number, samples = draw.integers(shape[0]), draw.permutation(50)[: draw.integers(1, 20)]
            rows.write(number, samples, values[number, samples])
            assert np.array_equal(rows.read(number, samples), values[number, samples])
            if draw.random() < 0.3:
                files.share({("main", "x"): rows})
            for view in range(shape[0]):
                there = np.flatnonzero(~rows.missing(view))
                assert np.array_equal(rows.read(view, there), values[view, there])
        for rows in pair if draw.random() < 0.1 else ():
            files.share({("main", "x"): rows})
    assert np.array_equal(np.load(tmp_path / "000.npy"), values)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "000.npy", "manifest.json"]


def test_a_mark_comes_after_its_row(tmp_path, monkeypatch):
    files = CacheFiles(tmp_path, {}, "float32")
    (rows,) = files.open({("main", "x"): (1, 4)}).values()
    order = []
    flush, write_marks = StoredRows.flush, CacheFiles._write_marks
    monkeypatch.setattr(StoredRows, "flush", lambda *given: (order.append("row"), flush(*given)))
    monkeypatch.setattr(CacheFiles, "_write_marks", lambda *given: (order.append("mark"), write_marks(*given)))
    rows.write(0, np.array([2]), np.ones(1, np.float32))
    files.share({("main", "x"): rows})
    assert order == ["row", "mark"]


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_damaged_marks_are_refused(tmp_path, damage):
    files = CacheFiles(tmp_path, {}, "float32")
    files.open({("main", "x"): (1, 4)})
    path = tmp_path / "000.rows"
    path.unlink()
    if damage == "cut":
        path.write_bytes(b"")
    if damage == "other":
        with open(path, "wb") as file:
            np.save(file, np.zeros((1, 5), bool))
    with pytest.raises(ValueError, match=r"^The teacher's cache '.*' is damaged: '000.rows' cannot be read\.$"):
        files.open({("main", "x"): (1, 4)})
