"""Checkpoints are whole or absent, and the last two are kept."""

from __future__ import annotations

import os

import pytest
import torch
from _harness.fits import full_disk
from _harness.runs import in_process

from congruence.training.saving.checkpoint import Checkpoints


def test_the_last_two_are_kept(tmp_path):
    kept = Checkpoints(tmp_path / "c")
    assert kept.load() is None
    assert kept.last() == -1
    for step in (0, 3, 12):
        kept.save(step, {"step": step})
    assert [path.name for path in kept.files()] == ["step-000000012.pt", "step-000000003.pt"]
    assert kept.last() == 12
    assert kept.load()["step"] == 12
    kept.clear()
    assert kept.files() == []


def test_other_files_are_left_alone(tmp_path):
    kept = Checkpoints(tmp_path)
    (tmp_path / "mine.pt").write_text("x")
    for step in range(4):
        kept.save(step, {"step": step})
    assert (tmp_path / "mine.pt").exists()
    assert kept.load()["step"] == 3


def test_a_flipped_bit_is_never_loaded(tmp_path):
    kept = Checkpoints(tmp_path)
    state = {"step": 2, "tensor": torch.randn(50), "words": ["a", "b"], "rate": 0.25}
    kept.save(1, {"step": 1})
    newest = kept.save(2, state)
    content = newest.read_bytes()
    fell_back = 0
    for position in range(0, len(content), 7):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        newest.write_bytes(flipped)
        loaded = kept.load()
        if loaded["step"] == 1:
            fell_back += 1
        else:
            assert torch.equal(loaded["tensor"], state["tensor"])
            assert [loaded[key] for key in ("words", "rate")] == [["a", "b"], 0.25]
    assert fell_back > len(content) // 7 // 3  # the rest of the file is padding, and names that nobody reads


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "pickle", "other"])
def test_a_damaged_one_makes_way_for_the_one_before(damage, tmp_path, caplog):
    kept = Checkpoints(tmp_path)
    for step in (1, 2):
        kept.save(step, {"step": step, "tensor": torch.ones(100)})
    newest = kept.files()[0]
    content = newest.read_bytes()
    if damage == "other":
        torch.save({"step": 2}, newest)
    elif damage == "pickle":
        torch.save({"congruence": os.system}, newest)
    else:
        newest.write_bytes(
            {"truncated": content[: len(content) // 2], "empty": b"", "foreign": b"\x00no\xff" * 99}[damage]
        )
    assert kept.load()["step"] == 1
    assert "step-000000002.pt" in caplog.text
    assert "trying the one before" in caplog.text
    kept.files()[1].write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"No checkpoint in '.*' can be read: 'step-000000002.pt'.*'step-000000001.pt'"
    ):
        kept.load()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")])
def test_a_failure_to_write_is_one_sentence_and_leaves_nothing(error, tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path)
    kept.save(1, {"step": 1})

    def save(state, file):
        raise error

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(ValueError, match=r"'.*step-000000002.pt' could not be written: .*Earlier checkpoints are"):
        kept.save(2, {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.pt"]
    assert kept.load()["step"] == 1


def test_a_disk_that_is_really_full(tmp_path):
    assert in_process(full_disk, tmp_path) == 0
    assert (
        "step-000000002.pt' could not be written: File too large. Earlier checkpoints"
        in (tmp_path / "said.txt").read_text()
    )
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000001.pt"]


def test_a_file_in_the_folder_s_place(tmp_path):
    (tmp_path / "c").write_text("a file")
    with pytest.raises(ValueError, match="could not be written: "):
        Checkpoints(tmp_path / "c").save(1, {"step": 1})
