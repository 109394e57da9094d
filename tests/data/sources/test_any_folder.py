"""A large folder of images is scanned once, and again when it has changed."""

from __future__ import annotations

import os
import time

import pytest
from PIL import Image

import congruence as cg
from congruence.data.sources import any_folder
from congruence.data.sources.folder import list_folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CONGRUENCE_DATA", str(tmp_path / "data-root"))
    monkeypatch.setattr(any_folder, "INDEX_FROM", 5)
    for part, count in (("train", 6), ("val", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "images" / part / name / "deep").mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "images" / part / name / f"{number}.png")
    settle(tmp_path / "images")
    return tmp_path / "images"


def settle(folder):
    """Let all folders have changed long ago."""
    before = time.time() - 60
    for directory, _, _ in os.walk(folder):
        os.utime(directory, (before, before))


def counted(monkeypatch):
    scans = []
    monkeypatch.setattr(any_folder, "list_folder", lambda root: scans.append(1) or list_folder(root))
    return scans


def test_the_index_is_the_listing(folder, monkeypatch):
    scans, plain = counted(monkeypatch), list_folder(folder)
    for _ in range(3):
        tree = any_folder.read_tree(folder)
        for name in ("train", "validation"):
            mine, other = getattr(tree, name), getattr(plain, name)
            assert list(mine.files) == list(other.files)
            assert (mine.labels == other.labels).all()
        assert tree.class_names == plain.class_names
        assert tree.test is None
    assert len(scans) == 1
    splits = cg.data.load(folder, size=(8, 8), stream=True, test=0)
    assert [len(part) for part in splits] == [12, 4, 0]


@pytest.mark.parametrize("change", ["add", "remove", "deep", "class"])
def test_a_changed_folder_is_scanned_again(folder, monkeypatch, change):
    any_folder.read_tree(folder)
    scans = counted(monkeypatch)
    if change == "remove":
        (folder / "train/dog/3.png").unlink()
    else:
        place = {"add": "train/cat", "deep": "train/cat/deep", "class": "train/eel"}[change]
        (folder / place).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / place / "new.png")
    tree = any_folder.read_tree(folder)
    assert scans
    assert list(tree.train.files) == list(list_folder(folder).train.files)
    # It has changed just now: an index would not notice another change within the clock's tick.
    any_folder.read_tree(folder)
    assert len(scans) == 2
    settle(folder)
    any_folder.read_tree(folder)
    any_folder.read_tree(folder)
    assert len(scans) == 3


def test_small_folders_and_damaged_indexes_are_listed(folder, monkeypatch, tmp_path):
    any_folder.read_tree(folder)
    (index,) = (tmp_path / "data-root" / "indexes").glob("*.npz")
    index.write_bytes(index.read_bytes()[:50])
    scans = counted(monkeypatch)
    assert len(any_folder.read_tree(folder).train.files) == 12
    assert scans
    index.unlink()
    monkeypatch.setattr(any_folder, "INDEX_FROM", 100)
    any_folder.read_tree(folder)
    assert not index.exists()


def test_a_data_directory_that_is_a_file_keeps_no_index(folder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONGRUENCE_DATA", str(tmp_path / "file"))
    assert len(any_folder.read_tree(folder).train.files) == 12
