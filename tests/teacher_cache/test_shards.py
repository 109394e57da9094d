"""Shards made by many processes are the cache that one pass makes, resumed after a kill, and refused when not whole."""

from __future__ import annotations

import itertools
import json
import logging
import shutil

import numpy as np
import pytest
import torch
from _harness.caches import CLASSES, SAMPLES, batches, images, net
from PIL import Image

import congruence as cg
from congruence import Distiller, FitOptions, TeacherCache
from congruence.data import FileDataset, loader
from congruence.teacher_cache import fill_shard, shards_in
from congruence.teacher_cache.encoding import Encoding, Rounding
from congruence.teacher_cache.shards import bounds

TERMS = ["ce", "kd", "pkt"]


def counted(fails_at=None):
    """Return a teacher and the list of its batches; it fails in one of them."""
    teacher, seen = net(1), []

    def look(_, inputs):
        seen.append(len(inputs[0]))
        if len(seen) == fails_at:
            raise KeyboardInterrupt

    teacher.register_forward_pre_hook(look)
    return teacher, seen


def distiller_in(folder, *, teacher=None, dtype="float32", terms=TERMS, dataset=None, **given):
    train = batches(dataset, **given)
    cache = TeacherCache(teacher or net(1), train, folder, dtype=dtype)
    return Distiller(cache, net(2, width=4), terms, example=images().batch([0, 1]))


def made(folder, count, **given):
    for number in range(1, count + 1):
        fill_shard(distiller_in(folder, **given), (number, count))


def opened(folder, **given):
    distiller = distiller_in(folder, **given)
    cache = distiller.caches["teacher"]
    cache.open(distiller.taught_by("teacher"))
    return cache


def rows(cache):
    everyone = np.arange(SAMPLES)
    return {
        key: np.stack([stored.read(number, everyone) for number in range(cache.views)])
        for key, stored in cache._arrays.items()
    }


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_bounds_cover_the_samples_once_in_whole_chunks():
    for samples, count in ((300, 4), (300, 5), (64, 1), (1000, 7)):
        ends = [bounds(number, count, samples) for number in range(1, count + 1)]
        assert ends[0][0] == 0
        assert ends[-1][1] == samples
        assert all(one[1] == other[0] for one, other in itertools.pairwise(ends))
        assert all(first % 64 == 0 and first < end for first, end in ends)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_shards_are_the_cache_of_one_pass_bit_for_bit(tmp_path, dtype):
    whole = opened(tmp_path / "whole", dtype=dtype)
    for number in (3, 1, 2):  # in any order, each alone and then copied together
        fill_shard(distiller_in(tmp_path / f"machine-{number}", dtype=dtype), (number, 3))
        name = f"{number}-of-3"
        shutil.copytree(tmp_path / f"machine-{number}" / "shards" / name, tmp_path / "all" / "shards" / name)
    cache = opened(tmp_path / "all", dtype=dtype)
    assert cache.complete
    assert same(rows(cache), rows(whole))
    distiller = distiller_in(tmp_path / "all", dtype=dtype)
    distiller.train()
    live = distiller_in(tmp_path / "whole", dtype=dtype).train()
    batch = next(iter(batches()))
    assert torch.equal(distiller(*batch).loss, live(*batch).loss)
    assert not list((tmp_path / "all").glob("*.npy"))


def test_a_run_reads_shards_and_equals_one_that_fills(tmp_path):
    made(tmp_path / "a", 2)
    students = []
    for name in ("a", "b"):
        distiller = distiller_in(tmp_path / name)
        options = FitOptions(teacher_speed="exact", epochs=2, seed=5, device="cpu")
        cg.fit(distiller, distiller.caches["teacher"].loader, None, options)
        students.append(distiller.student_state_dict())
    assert all(torch.equal(value, students[1][name]) for name, value in students[0].items())
    assert not (tmp_path / "a" / "manifest.json").exists()


def test_a_killed_shard_goes_on_where_it_was_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("congruence.teacher_cache.cache.BATCH", 32)
    teacher, seen = counted()
    fill_shard(distiller_in(tmp_path / "whole", teacher=teacher))
    needed = len(seen)
    broken, _ = counted(fails_at=needed - 3)
    with pytest.raises(KeyboardInterrupt):
        fill_shard(distiller_in(tmp_path / "a", teacher=broken))
    (state,) = shards_in(tmp_path / "a")
    assert 0 < state.stored < state.rows
    assert not state.complete
    # What a kill left beyond the saved rows is stored again.
    facts = json.loads((tmp_path / "a/shards/1-of-1/shard.json").read_text())
    array = np.load(tmp_path / "a/shards/1-of-1/000.npy", mmap_mode="r+")
    array.reshape(-1, *array.shape[2:])[facts["arrays"]["main:4"]["stored"] :] = 7
    array.flush()
    again, seen = counted()
    assert fill_shard(distiller_in(tmp_path / "a", teacher=again))["teacher"].complete
    assert len(seen) < needed
    assert same(rows(opened(tmp_path / "a")), rows(opened(tmp_path / "whole")))
    once, seen = counted()
    fill_shard(distiller_in(tmp_path / "a", teacher=once, terms=["kd"]))
    assert len(seen) <= 2  # the dry forward alone


def test_layers_of_other_terms_are_added(tmp_path):
    made(tmp_path, 2, terms=["kd"])
    made(tmp_path, 2, terms=TERMS)
    facts = json.loads((tmp_path / "shards/2-of-2/shard.json").read_text())
    assert set(facts["arrays"]) == {"main:4", "main:input:4"}
    assert same(rows(opened(tmp_path)), rows(opened(tmp_path / "whole")))


def test_each_teacher_has_shards_of_its_own(tmp_path):
    train, teachers = batches(), {"a": net(1), "b": net(7, width=6)}
    caches = {name: TeacherCache(each, train, tmp_path / name, dtype="float32") for name, each in teachers.items()}
    terms = [cg.Term("kd", teacher="a"), cg.Term("pkt", teacher="b")]
    distiller = Distiller(caches, net(2, width=4), terms, example=images().batch([0, 1]))
    told = []
    for number in (1, 2):
        done = fill_shard(distiller, (number, 2), report=lambda name, state: told.append((name, state.complete)))
        assert all(state.complete for state in done.values())
    assert told == [("a", True), ("b", True)] * 2
    assert [len(shards_in(tmp_path / name)) for name in teachers] == [2, 2]
    distiller.train()(*next(iter(train)))
    assert all(cache.complete for cache in caches.values())


def test_what_is_not_whole_is_refused(tmp_path):
    fill_shard(distiller_in(tmp_path), (1, 3))
    with pytest.raises(
        ValueError, match=r"lacks the shards 2/3, 3/3: make them \(`congruence cache CONFIG --shard 2/3"
    ):
        opened(tmp_path)
    fill_shard(distiller_in(tmp_path), (2, 4))
    with pytest.raises(ValueError, match="holds shards of several divisions \\('1-of-3', '2-of-4'\\)"):
        opened(tmp_path)
    with pytest.raises(ValueError, match="was made of something else"):
        fill_shard(distiller_in(tmp_path, teacher=net(5)), (1, 3))
    shutil.rmtree(tmp_path / "shards/2-of-4")
    with pytest.raises(ValueError, match="was made of something else"):
        opened(tmp_path, teacher=net(5))


def test_a_changed_byte_is_noticed(tmp_path):
    made(tmp_path, 2)
    opened(tmp_path)
    file = tmp_path / "shards/2-of-2/000.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"'000\.npy' is not what its checksum says"):
        opened(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=r"'000\.npy' cannot be read"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("shard", "sentence"), [((0, 2), "I/N with 1 <= I <= N"), ((1, 6), "at most 5 shards of 64"), ((True, 1), "I/N")]
)
def test_bad_shards(tmp_path, shard, sentence):
    with pytest.raises(ValueError, match=sentence):
        fill_shard(distiller_in(tmp_path), shard)


def test_no_cache(tmp_path):
    with pytest.raises(ValueError, match="one with a TeacherCache as its teacher, got none"):
        fill_shard(Distiller(net(1), net(2), ["kd"], example=images().batch([0, 1])))


def test_two_processes_do_not_fill_one_shard(tmp_path):
    from congruence.core.files import locked

    with (
        locked(tmp_path / "shards/1-of-1/.lock"),
        pytest.raises(ValueError, match="is being filled by another process"),
    ):
        fill_shard(distiller_in(tmp_path))


def test_files_that_change_are_noticed_through_shards(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (80, 6, 6), dtype=np.uint8)
    files = [f"{number}.png" for number in range(80)]
    for name, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(folder / name)
    labels = torch.arange(80) % CLASSES

    def distiller():
        dataset = FileDataset(folder, files, labels, size=(6, 6), grey=True, classes=CLASSES, mean=[0.5], std=[0.25])
        cache = TeacherCache(net(1), loader(dataset, batch_size=8), tmp_path / "cache", dtype="float32")
        return Distiller(cache, net(2), ["kd"], example=dataset.batch([0, 1]))

    for number in (1, 2):
        fill_shard(distiller(), (number, 2))
    made = distiller()
    made.caches["teacher"].open(made.taught_by("teacher"))
    Image.fromarray(255 - pixels[70]).save(folder / "70.png")
    changed = distiller()
    with pytest.raises(ValueError, match=r"made of other pixels|made of something else"):
        changed.caches["teacher"].open(changed.taught_by("teacher"))


def test_int8_errs_by_half_a_level_at_most_and_says_so(tmp_path, caplog):
    values = np.random.default_rng(0).normal(size=(50, 3, 4)).astype(np.float32)
    values[3] = 0
    values[4] *= 1e-38
    values[5] *= 1e37
    int8 = Encoding("int8")
    read = int8.decode(int8.encode("fc", values), (3, 4))
    largest = np.abs(values).max((1, 2), keepdims=True)
    assert (np.abs(read - values) <= 1.0001 * largest / 254 + 1e-45).all()
    assert (read[3] == 0).all()
    rounding = Rounding()
    rounding.add(values, read)
    told = rounding.described()
    assert 0 < told["mean"] < told["largest"] < 0.02
    odd = np.array([[1.0, np.nan], [np.inf, 1.0]], np.float32)
    assert np.isnan(int8.decode(int8.encode("fc", odd), (2,))).all()
    fill_shard(distiller_in(tmp_path, dtype="int8"))
    (state,) = shards_in(tmp_path)
    assert state.rounding["4"]["rows"] == 2 * SAMPLES
    assert 0 < state.rounding["4"]["mean"] < 0.01
    with caplog.at_level(logging.INFO, logger="congruence"):
        distiller = distiller_in(tmp_path / "filled", dtype="int8")
        options = FitOptions(teacher_speed="exact", epochs=2, device="cpu")
        cg.fit(distiller, distiller.caches["teacher"].loader, None, options)
    assert "Stored as int8, the rows of '4' are off by" in caplog.text
    assert same(rows(opened(tmp_path / "filled", dtype="int8")), rows(opened(tmp_path, dtype="int8")))
