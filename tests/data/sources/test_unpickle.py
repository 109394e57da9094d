"""The reader of pickles that runs nothing."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from congruence.data.sources.unpickle import plain_pickle

# {"data": a uint8 array [[1, 2], [3, 250]], "labels": [4, 7]} as Python 2 and NumPy 1 wrote it, with protocol 2.
PYTHON_2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b"
    b"\x87Rq\x05(K\x01K\x02K\x02\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xff"
    b"J\xff\xff\xff\xffK\x00tb\x89U\x04\x01\x02\x03\xfatbU\x06labelsq\x08]q\x09(K\x04K\x07eu."
)


class Evil:
    """Leaves a mark if it is ever run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_reads_what_python_2_wrote(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(PYTHON_2)
    got = plain_pickle(tmp_path / "old")
    assert got[b"labels"] == [4, 7]
    assert got[b"data"].dtype == np.uint8
    assert got[b"data"].tolist() == [[1, 2], [3, 250]]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["u1", "<i8", ">i4", "f4", "?", "S3"])
def test_arrays_of_every_protocol(tmp_path: Path, protocol: int, order: str, kind: str) -> None:
    array = np.asarray(np.arange(12).reshape(3, 4).astype(kind), order=order)
    value = {"a": array, "n": [1, 2.5, "text", b"\xff\x00", None, True], "empty": np.zeros((0, 3), np.uint8)}
    (tmp_path / "file").write_bytes(pickle.dumps(value, protocol=protocol))
    got = plain_pickle(tmp_path / "file")
    assert got["a"].dtype == array.dtype
    assert np.array_equal(got["a"], array)
    assert got["n"] == value["n"]
    assert got["empty"].shape == (0, 3)


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "file").write_bytes(pickle.dumps({b"data": [Evil(mark)]}, protocol=protocol))
    with pytest.raises(ValueError, match=r"^The file '.*file' asks for '(posix|nt)\.system' when read, .* was run\.$"):
        plain_pickle(tmp_path / "file")
    assert not mark.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.testing\nmeasure\n(S'1'\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.__doc__\x93.",
        b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.",
        b"ccongruence.data.unpickle\n_reconstruct\n.",
    ],
)
def test_any_other_name_is_refused(tmp_path: Path, code: bytes) -> None:
    (tmp_path / "file").write_bytes(code)
    with pytest.raises(ValueError, match="nothing was run"):
        plain_pickle(tmp_path / "file")


@pytest.mark.parametrize(
    "value",
    [
        pickle.dumps(np.array([{"a": 1}, None], dtype=object)),
        pickle.dumps(np.zeros(2, dtype=[("a", "i4")])),
        pickle.dumps(np.arange(9))[:-20],
        PYTHON_2.replace(b"K\x02K\x02\x86", b"K\x02K\x09\x86"),
        PYTHON_2[:40],
        b"(lp0\ng0\na.",
        b"",
        b"not a pickle",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
    ],
)
def test_damaged_or_strange_files_are_one_sentence(tmp_path: Path, value: bytes) -> None:
    (tmp_path / "file").write_bytes(value)
    with pytest.raises(ValueError, match=r"^The file '.*file' is damaged: .*\.$"):
        plain_pickle(tmp_path / "file")


def test_an_absent_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        plain_pickle(tmp_path / "file")


def test_shared_lists_are_read_once(tmp_path: Path) -> None:
    shared: list[object] = [1]
    for _ in range(40):
        shared = [shared, shared]  # 2**40 numbers to one who copies them
    (tmp_path / "file").write_bytes(pickle.dumps({"labels": shared}))
    got = plain_pickle(tmp_path / "file")["labels"]
    assert got[0] is got[1]
    for _ in range(40):
        got = got[0]
    assert got == [1]
