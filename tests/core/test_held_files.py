"""What is read of a file that a session was made from, and of the files beside it."""

import pytest

from congruence.core.held_files import file_bytes


def said(name):
    """Write the entry of an ONNX file that says where a weight lies."""
    size = len(name)
    length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    return b"\x12\x05\x0a\x08location\x12" + length + name.encode() + b"\x12\x09\x0a\x06offset"


@pytest.mark.parametrize("name", ["weights.bin", "w" * 200, "one.onnx.data"])
def test_weights_beside_an_onnx_file_are_found_under_any_name(tmp_path, name):
    path = tmp_path / "one.onnx"
    path.write_bytes(b"head" + said(name) + said(name) + b"tail" + said("absent"))
    assert file_bytes(path) == [path.read_bytes()]
    (tmp_path / name).write_bytes(b"123")
    assert file_bytes(path) == [path.read_bytes(), b"123"]


def test_another_file_has_the_usual_ones_alone(tmp_path):
    path = tmp_path / "one.engine"
    path.write_bytes(said("weights.bin"))
    for name in ("weights.bin", "one.engine.data", "one.engine_data"):
        (tmp_path / name).write_bytes(name.encode())
    assert file_bytes(str(path))[1:] == [b"one.engine.data", b"one.engine_data"]
