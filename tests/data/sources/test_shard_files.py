"""Images in tar shards and Parquet files are the same samples, and resume as exactly, as image files."""

from __future__ import annotations

import io
import json
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import congruence as cg
from congruence.data.datasets import packed
from congruence.data.datasets.packed import Names
from congruence.data.loading.block_order import BlockOrder
from congruence.data.sources import shard_files
from congruence.data.sources.any_folder import sample_names

COUNT, CLASSES = 24, 3


@pytest.fixture(autouse=True)
def _data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("CONGRUENCE_DATA", str(tmp_path / "data-root"))


def png(number):
    pixels = np.random.default_rng(number).integers(0, 255, (9, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def tars(folder, *, label="cls", count=COUNT, shards=3, name="train"):
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        with tarfile.open(folder / f"{name}-{shard:03}.tar", "w") as tar:
            for number in range(shard, count, shards):
                of_class = number % CLASSES
                place = f"class{of_class}/" if label == "folders" else ""
                if label == "json":
                    add(tar, f"{number:04}.json", json.dumps({"label": f"class{of_class}"}).encode())
                add(tar, f"{place}{number:04}.png", png(number))
                if label == "cls":
                    add(tar, f"{number:04}.cls", str(of_class).encode())
                add(tar, f"{place}{number:04}.txt", b"a caption")
    return folder


def files(folder):
    for number in range(COUNT):
        path = folder / f"class{number % CLASSES}"
        path.mkdir(parents=True, exist_ok=True)
        (path / f"{number:04}.png").write_bytes(png(number))
    return folder


def loaded(folder, **options):
    return cg.data.load(folder, **{"size": (8, 8), "stream": True, "validation": 0, "test": 0, **options}).train


@pytest.mark.parametrize("label", ["cls", "json", "folders"])
def test_shards_hold_the_samples_of_a_folder(tmp_path, label):
    there, packed = loaded(files(tmp_path / "files")), loaded(tars(tmp_path / "shards", label=label))
    assert len(packed) == COUNT
    assert packed.class_names == (("0", "1", "2") if label == "cls" else there.class_names)
    by_number = {name[-8:-4]: row for row, name in enumerate(sample_names(packed))}
    order = [by_number[name[-8:-4]] for name in sample_names(there)]
    assert torch.equal(packed.raw(order), there.raw(range(COUNT)))
    assert torch.equal(packed.labels[order], there.labels)
    in_memory = cg.data.load(tmp_path / "shards", size=(8, 8), stream=False, validation=0, test=0).train
    assert torch.equal(in_memory.raw(order), there.raw(range(COUNT)))
    assert sample_names(in_memory, tmp_path / "shards") == list(sample_names(packed))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_in_its_middle_to_the_same_bits(tmp_path, workers):
    data = loaded(tars(tmp_path / "shards"))
    train = cg.data.loader(data, batch_size=5, seed=3, augment=True, workers=workers)
    whole = list(train.batches(1))
    rest = list(train.batches(1, start=2))
    assert all(
        torch.equal(a, b) for one, other in zip(whole[2:], rest, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert torch.equal(pickle.loads(pickle.dumps(data)).raw([4]), data.raw([4]))


def test_parts_come_from_folders_or_from_names(tmp_path):
    tars(tmp_path / "a", name="train")
    tars(tmp_path / "a", name="val", count=6, shards=1)
    tars(tmp_path / "b/train", name="x")
    tars(tmp_path / "b/test", name="x", count=9, shards=1)
    one = cg.data.load(tmp_path / "a", size=(8, 8), stream=True, test=0)
    other = cg.data.load(tmp_path / "b", size=(8, 8), stream=True, validation=0)
    assert [len(part) for part in one] == [COUNT, 6, 0]
    assert [len(part) for part in other] == [COUNT, 0, 9]
    single = loaded(tmp_path / "a" / "val-000.tar")
    assert len(single) == 6


def test_shards_are_scanned_once_until_they_change(tmp_path, monkeypatch):
    folder = tars(tmp_path / "shards")
    first, scans, scan = loaded(folder), [], shard_files._scanned
    monkeypatch.setattr(shard_files, "_scanned", lambda *given: scans.append(1) or scan(*given))
    again = loaded(folder)
    assert not scans
    assert again.fingerprint() == first.fingerprint()
    tars(folder, count=COUNT + 3)
    assert len(loaded(folder)) == COUNT + 3
    assert scans


def test_a_cached_teacher_notices_another_shard(tmp_path):
    folder = tars(tmp_path / "shards")

    def opened():
        data = loaded(folder, mean=[0.5] * 3, std=[0.25] * 3)
        torch.manual_seed(0)
        teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, CLASSES))
        cache = cg.TeacherCache(teacher, cg.data.loader(data, batch_size=8), tmp_path / "cache", dtype="float32")
        student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, CLASSES))
        distiller = cg.Distiller(cache, student, ["kd"], example=data.example())
        cache.open(distiller.taught_by("teacher"))

    opened()
    opened()
    content = bytearray((folder / "train-001.tar").read_bytes())
    at = content.index(b"IDAT") + 8
    content[at : at + 1] = bytes([content[at] ^ 1])
    (folder / "train-001.tar").write_bytes(content)
    with pytest.raises(ValueError, match="made of other pixels"):
        opened()


def test_an_archive_beside_class_folders_is_no_shard(tmp_path):
    tars(files(tmp_path / "files"))
    (tmp_path / "files" / "all.tar.gz").write_bytes(b"")
    assert loaded(tmp_path / "files").class_names == ("class0", "class1", "class2")


def test_bad_shards_get_a_sentence(tmp_path):
    folder = tars(tmp_path / "cut", shards=1)
    file = folder / "train-000.tar"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"train-000.tar' is damaged"):
        loaded(folder)
    (tmp_path / "gz").mkdir()
    (tmp_path / "gz" / "train.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is compressed, so that no image can be read alone"):
        loaded(tmp_path / "gz")
    with tarfile.open(tars(tmp_path / "some", shards=1) / "train-001.tar", "w") as tar:
        add(tar, "x.png", png(0))
    with pytest.raises(ValueError, match=r"1 of 25 images in .* have no label, 'train-001.tar/x.png' first"):
        loaded(tmp_path / "some")
    with tarfile.open(tmp_path / "none.tar", "w") as tar:
        add(tar, "x.txt", b"")
    with pytest.raises(ValueError, match="hold no image"):
        loaded(tmp_path / "none.tar")
    data = loaded(tars(tmp_path / "gone", shards=1))
    (tmp_path / "gone" / "train-000.tar").unlink()
    pickled = pickle.loads(pickle.dumps(data))
    with pytest.raises(ValueError, match="is absent"):
        pickled.raw([0])


def test_names():
    given = ["a/b.png", "", "ü.jpg", "c"]
    names = Names.of(given)
    assert list(names) == given
    assert names[-1] == "c"
    assert tuple(names[1:3]) == ("", "ü.jpg")
    with pytest.raises(IndexError):
        names[4]


def parquet(folder, *, rows=8, count=COUNT, name="train", numbers=True, plain=False):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    folder.mkdir(parents=True, exist_ok=True)
    images = [png(number) if plain else {"bytes": png(number), "path": None} for number in range(count)]
    labels = [number % CLASSES if numbers else f"class{number % CLASSES}" for number in range(count)]
    table = pyarrow.table({"image": images, "label": labels})
    features = {"label": {"names": ["class0", "class1", "class2"], "_type": "ClassLabel"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    write_table(table, folder / f"{name}-00000-of-00001.parquet", row_group_size=rows)
    return folder


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("numbers", [False, True])
def test_parquet_holds_the_samples_of_a_folder(tmp_path, plain, numbers):
    packed = loaded(parquet(tmp_path / "parquet" / "data", plain=plain, numbers=numbers).parent)
    there = loaded(files(tmp_path / "files"))
    order = [int(name[-8:-4]) for name in sample_names(there)]
    assert torch.equal(packed.raw(order), there.raw(range(COUNT)))
    assert torch.equal(packed.labels[order], there.labels)
    assert packed.class_names == there.class_names
    assert torch.equal(pickle.loads(pickle.dumps(packed)).raw([4]), packed.raw([4]))


def test_parquet_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "train.parquet").write_bytes(b"no")
    if pytest.importorskip("pyarrow"):
        with pytest.raises(ValueError, match="cannot be read as Parquet"):
            loaded(tmp_path / "train.parquet")


def test_without_pyarrow_there_is_a_sentence(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "train.parquet").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"Parquet files need pyarrow: pip install 'congruence\[parquet\]'"):
        loaded(tmp_path / "train.parquet")


@pytest.mark.parametrize("drop_last", [False, True])
def test_large_parquet_reads_each_row_group_once_and_resumes(tmp_path, monkeypatch, drop_last):
    monkeypatch.setattr(packed, "BYTES", 0)
    data = pickle.loads(pickle.dumps(loaded(parquet(tmp_path / "parquet", rows=2))))  # with nothing in memory
    reads, read = [], packed.ParquetFiles._read_group
    monkeypatch.setattr(packed.ParquetFiles, "_read_group", lambda self, *key: reads.append(key) or read(self, *key))
    train = cg.data.loader(data, batch_size=5, seed=3, augment=True, drop_last=drop_last)
    assert isinstance(train.sampler, BlockOrder)
    whole = list(train.batches(1))
    assert sorted(reads) == [(0, group) for group in range(COUNT // 2)]
    seen = torch.cat([index for *_, index in whole])
    assert len(seen.unique()) == len(seen) == (COUNT if not drop_last else COUNT // 5 * 5)
    rest = list(train.batches(1, start=2))
    assert all(torch.equal(one[0], other[0]) for one, other in zip(whole[2:], rest, strict=True))
    assert not torch.equal(seen, torch.cat([index for *_, index in train.batches(2)]))
    assert len(train) == len(whole)
    half = cg.data.loader(data.subset(range(0, COUNT, 2)), batch_size=5)
    assert len(torch.cat([index for *_, index in half]).unique()) == COUNT // 2
