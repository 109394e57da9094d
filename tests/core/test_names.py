"""Names that become folders: none leaves its parent, and no two are one."""

import os

import pytest

from congruence.core import names


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "..",
        "...",
        "../x",
        "/x",
        "a/b",
        "a\\b",
        "C:x",
        "a\0b",
        "a\nb",
        "a\x1b[2Jb",
        "a?",
        "a.",
        " a",
        "x" * 101,
    ],
)
def test_no_folder_s_name(name):
    assert names.wrong(name)


@pytest.mark.parametrize("name", ["kd", "lambda_0.01", "B-cnn3", "été", "lr=0.1", "a b", "[x]", "x" * 100])
def test_a_name_is_one_folder_below_its_parent(name, tmp_path):
    assert names.wrong(name) == ""
    (tmp_path / name).mkdir()
    assert os.listdir(tmp_path) == [name]


def test_names_that_are_one_folder_elsewhere():
    assert names.twice(["a", "b", "B"]) == ("b", "B")
    assert names.twice(["é", "e\u0301"]) == ("é", "e\u0301")
    assert names.twice(["a", "b", "a-b"]) is None
