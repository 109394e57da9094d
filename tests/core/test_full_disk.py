"""Every writer names the file that a full disk did not take, and where it is known how much was wanted."""

from __future__ import annotations

import errno
import io
import os

import pytest
import torch

from congruence.bench.cell import _marked
from congruence.bench.failed import sentence
from congruence.config import load_config
from congruence.config.save import write_resolved
from congruence.core import files
from congruence.models import save_weights
from congruence.training.saving.checkpoint import Checkpoints

FULL = "No space left on device"


class Full(io.RawIOBase):
    """A file of a disk that takes nothing more."""

    def writable(self):
        return True

    def write(self, data):
        raise OSError(errno.ENOSPC, FULL)


@pytest.fixture
def full(monkeypatch):
    """A disk that makes files, and takes no byte of them."""

    def opened(handle, mode):
        os.close(handle)
        return io.BufferedWriter(Full())

    monkeypatch.setattr(files.os, "fdopen", opened)


@pytest.mark.parametrize(
    ("name", "write", "wanted"),
    [
        ("a.json", lambda path: files.write_json(path, {"x": 1}), 13),
        ("config.toml", lambda path: write_resolved(load_config("digits/pkt"), path), None),
        ("w.safetensors", lambda path: save_weights({"w": torch.ones(2**16)}, path), 2**18),
        ("step-000000003.pt", lambda path: Checkpoints(path.parent).save(3, {"w": torch.ones(2**16)}), 2**18),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a buffer that nobody can flush
def test_an_atomic_file(name, write, wanted, full, tmp_path):
    with pytest.raises((OSError, ValueError), match=FULL) as caught:
        write(tmp_path / name)
    said = sentence(caught.value)
    assert f"'{tmp_path / name}'" in said
    if wanted is not None:
        [number] = [int(word.replace(",", "")) for word in said.replace("(", " ").split() if word[0].isdigit()]
        assert wanted <= number <= wanted + 1000
        assert "bytes were wanted)" in said
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("metrics.jsonl", lambda path: files.append_line(path, {"step": 1})),
        (".running", lambda path: _marked(path.parent).__enter__()),
    ],
)
def test_a_file_that_is_written_in_place(name, write, tmp_path):
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OSError, match=FULL) as caught:
        write(tmp_path / name)
    assert sentence(caught.value) == f"{FULL}: '{tmp_path / name}'."
