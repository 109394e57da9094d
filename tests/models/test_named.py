"""Models that a text names by "KIND:REST"."""

from pathlib import Path

import pytest

from congruence.models import named


@pytest.mark.parametrize(
    "name", ["resnet8", "module:callable", "package.module:callable", "jit:", "C:teacher.onnx", ""]
)
def test_other_texts_have_no_kind(name):
    assert named.split(name) is None
    assert named.absolute(name) == name


def test_a_file_is_found_in_another_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named.split("export:a:b.pt2") == ("export", "a:b.pt2")
    assert named.absolute("jit:nets/teacher.pt") == f"jit:{tmp_path / 'nets' / 'teacher.pt'}"
    assert named.absolute("onnx:~/t.onnx") == f"onnx:{Path.home() / 't.onnx'}"
    monkeypatch.setitem(named.LOADERS, "made", lambda rest, *, trust: None)
    assert named.absolute("made:NAME") == "made:NAME"


def test_a_loader_gets_the_rest_and_the_trust(monkeypatch):
    asked = []
    monkeypatch.setitem(named.LOADERS, "made", lambda rest, *, trust: asked.append((rest, trust)))
    named.load("made:NAME")
    named.load("made:NAME", trust=True)
    assert asked == [("NAME", False), ("NAME", True)]
    with pytest.raises(
        ValueError, match=r"`load`: `name` must be 'KIND:REST' of a kind in \['export', 'hf', 'jit', 'made', 'onn"
    ):
        named.load("package.module:callable")
