"""Each example runs as a user runs it: in a fresh process, in an empty folder, offline."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from _harness.pages import ROOT

import congruence as cg

FOLDER = ROOT / "examples"
LINES = 80


def run(name, folder, *arguments):
    """Run an example and return what it prints; a warning on stderr fails, a line of progress does not."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV"))},
        "PYTHONPATH": str(Path(cg.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", str(FOLDER / f"{name}.py"), *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def numbers(text, pattern):
    return [float(number) for number in re.findall(pattern, text)]


def test_each_is_short_and_has_a_test():
    names = {path.stem: path.read_text(encoding="utf8") for path in FOLDER.glob("*.py")}
    assert {f"test_{name}" for name in names} == {name for name in globals() if name.startswith("test_")} - {
        "test_each_is_short_and_has_a_test",
        "test_own_texts",
    }
    for name, text in names.items():
        assert len(text.splitlines()) <= LINES, name
        assert f"`python examples/{name}.py" in text.split('"""')[1], name
        assert "Printed" in text.split('"""')[1], name


def test_own_loop(tmp_path):
    teacher, alone, taught = numbers(run("own_loop", tmp_path), r": (0\.\d{3})\n")
    assert teacher > 0.9
    assert taught > alone + 0.1


def test_own_images(tmp_path):
    printed = run("own_images", tmp_path)
    assert "classes: across, disc, down; images: 108, 36, 36\n" in printed
    teacher, student = numbers(printed, r"(?:teacher|student) ([01]\.\d{3})")
    assert teacher > 0.9
    assert student > 0.9
    assert (tmp_path / "runs" / "own_images" / "student" / "student.safetensors").is_file()


def test_text(tmp_path):
    before, after = numbers(run("text", tmp_path), r"(0\.\d\d) (?:before|after)")
    assert after > before + 0.1


def test_own_texts(tmp_path):
    (tmp_path / "texts.txt").write_text("".join(f"one line {number} of {number % 7}\n" for number in range(60)))
    assert "ten nearest of 60 texts" in run("text", tmp_path, "--texts", "texts.txt")


def test_plug_in_method(tmp_path):
    printed = run("plug_in_method", tmp_path)
    assert printed.startswith("the row keeps the contract\n")
    losses = numbers(printed, r"spread (\d\.\d{4})")
    assert len(losses) == 5
    assert losses == sorted(losses, reverse=True)


@pytest.mark.slow
def test_compare_and_export(tmp_path):
    printed = run("compare_and_export", tmp_path)
    assert [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")][2:] == [
        *("teacher", "small", "smaller"),
    ]
    assert len(numbers(printed, r"smaller (0\.\d\d)\n")) == 3
    assert "exported: small" in printed
    assert (tmp_path / "runs" / "exported" / "student.pt2").is_file()
