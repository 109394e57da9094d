"""Arrays on disk."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from _harness import layouts

from congruence.data import data_root
from congruence.data.sources.store import Arrays, Part, read_arrays, write_arrays

DATA = layouts.content(3, 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_arrays(tmp_path, Arrays(Part(*DATA[:2]), Part(*DATA[2:])), {"name": "toy"})
    return tmp_path


def test_arrays_come_back_memory_mapped(folder: Path) -> None:
    arrays = read_arrays(folder)
    assert isinstance(arrays.train.images, np.memmap)
    found = (*arrays.train, *(arrays.test or ()))
    assert all(np.array_equal(a, b) for a, b in zip(found, DATA, strict=True))
    assert json.loads((folder / "manifest.json").read_text())["name"] == "toy"


def _flip_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("name", "harm", "sentence"),
    [
        ("train_images.npy", _flip_last_byte, "is damaged: it is not what its manifest says"),
        ("train_images.npy", lambda p: p.write_bytes(p.read_bytes()[:-1]), "cannot be read as an array"),
        ("test_labels.npy", lambda p: p.write_bytes(b""), "cannot be read as an array"),
        ("test_labels.npy", Path.unlink, "is absent"),
        ("test_labels.npy", lambda p: np.save(p, np.array([{}])), "cannot be read as an array"),
        ("manifest.json", Path.unlink, "cannot be read: No such file"),
        ("manifest.json", lambda p: p.write_text("{"), "is damaged"),
        ("manifest.json", lambda p: p.write_text("[]"), "is damaged"),
        ("manifest.json", lambda p: p.write_text('{"format": 2, "arrays": {}}'), "is damaged"),
        ("manifest.json", lambda p: p.write_text('{"format": 1, "arrays": {}}'), "not what its manifest says"),
    ],
)
def test_harm_is_found_and_named(folder: Path, name: str, harm: Callable[[Path], None], sentence: str) -> None:
    harm(folder / name)
    with pytest.raises(ValueError, match=f"^The file '.*{sentence}.*\\.$"):
        read_arrays(folder)


def test_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("CONGRUENCE_DATA", "~/data")
    assert data_root() == Path("/home/somebody/data")
    monkeypatch.setenv("CONGRUENCE_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert data_root() == Path("/var/cache/congruence")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert data_root() == Path("/home/somebody/.cache/congruence")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("CONGRUENCE_DATA")
    assert data_root() == Path("/home/somebody/.cache/congruence")


def test_names_of_classes_and_no_test_part(tmp_path: Path) -> None:
    write_arrays(tmp_path, Arrays(Part(*DATA[:2]), class_names=("a", "b")), {})
    arrays = read_arrays(tmp_path)
    assert (arrays.class_names, arrays.test) == (("a", "b"), None)
    (tmp_path / "train_labels.npy").unlink()
    with pytest.raises(ValueError, match=r"train_labels\.npy' is absent"):
        read_arrays(tmp_path)
