"""The table of datasets with the rows of an installed package, in fresh processes; and the page that explains it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from _harness import outside_data as outside
from _harness.fresh import in_a_fresh_process, install
from _harness.pages import ROOT, blocks

from congruence.data import SOURCES, load
from congruence.data.sources import catalogue
from congruence.data.sources.catalogue import GROUP, source, sources
from congruence.data.sources.table import by_name

PAGE = ROOT / "docs" / "develop" / "adding-a-dataset.md"
STRIPES = "stripes = _harness.outside_data:STRIPES"
USED = """
import congruence as cg
from congruence.data.sources import catalogue
assert catalogue._contributed.cache_info().currsize == 0  # nobody asked for the table yet
splits = cg.data.load("stripes")
print([len(part) for part in splits], splits.train.class_names, splits.train.name)
print("stripes" in cg.data.SOURCES, next(row for row in cg.data.available(root="nowhere") if row.name == "stripes"))

from congruence.config import ConfigError, from_values
values = {
    "data": {"name": "stripes", "train_size": 20},
    "stages": {"student": {"student": {"model": "cnn3"}, "terms": [{"key": "ce"}], "train": {"max_steps": 1}}},
}
print(from_values(values, "here").data.name)
try:
    from_values({**values, "data": {"name": "strips"}}, "here")
except ConfigError as error:
    print(error)

from typer.testing import CliRunner
from congruence.cli.main import app
lines = CliRunner().invoke(app, ["data", "--root", "nowhere"]).stdout.splitlines()
print(next(line for line in lines if line.startswith("stripes")))
for name in ("stripes", "strips"):
    try:
        cg.data.fetch(name)
    except ValueError as error:
        print(error)
"""


def run(folder: Path, entry_points: str, script: str) -> list[str]:
    done = in_a_fresh_process(folder, GROUP, entry_points, script, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_package_adds_a_dataset(tmp_path: Path) -> None:
    lines = run(tmp_path, STRIPES, USED)
    assert lines[0] == "[42, 6, 12] ('across', 'down') stripes/train"
    assert lines[1] == ("False Available(name='stripes', present=True, counts={'train': 60}, where='inside _harness')")
    assert lines[2] == "stripes"
    assert lines[3].startswith("here: data.name: expected a folder or one of digits, ")
    assert " stripes, " in lines[3]
    assert lines[3].endswith(", got 'strips'. Did you mean 'stripes'?")
    assert lines[4].split() == ["stripes", "60", "train", "inside", "_harness"]
    assert lines[5] == "`fetch`: 'stripes' comes with _harness: there is nothing to fetch."
    assert lines[6].startswith("There is no dataset named 'strips', nor a folder there. Did you mean 'stripes'?")


@pytest.mark.parametrize(
    ("entry_points", "sentence"),
    [
        (
            f"{STRIPES}\nother = _harness.outside_data:AGAIN",
            "The table of datasets has two rows with the name 'stripes'.",
        ),
        ("digits = _harness.outside_data:DIGITS", "The table of datasets has two rows with the name 'digits'."),
        ("folder = _harness.outside_data:FOLDER", "The table of datasets has two rows with the name 'image-folder'."),
        (
            "stripes = _harness.outside_data:read_stripes",
            "The entry point 'stripes' of congruence.datasets must name a Source, got function.",
        ),
    ],
)
def test_a_package_with_a_wrong_row_is_refused(
    tmp_path: Path, entry_points: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, GROUP, entry_points)
    monkeypatch.syspath_prepend(tmp_path)
    catalogue._contributed.cache_clear()
    try:
        with pytest.raises(ValueError, match=re.escape(sentence)):
            load("digits")
    finally:
        catalogue._contributed.cache_clear()


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("WIDE", r"`load`: the images in 'wide' are (1, 8, 8), expected (1, 8, 9)."),
        ("BARE", r"The reader of 'bare' must return Arrays or a Tree, got ndarray."),
    ],
)
def test_what_a_reader_gives_is_checked(tmp_path: Path, row: str, sentence: str) -> None:
    name = getattr(outside, row).name
    script = f"import congruence as cg\ntry:\n    cg.data.load('{name}')\nexcept ValueError as error:\n    print(error)"
    assert run(tmp_path, f"{name} = _harness.outside_data:{row}", script) == [sentence]


def test_the_own_rows_come_first_and_stay_apart() -> None:
    assert list(sources())[: len(SOURCES)] == list(SOURCES)
    assert source("cifar10") is SOURCES["cifar10"]
    with pytest.raises(ValueError, match=r"two rows with the name 'digits'"):
        by_name((*SOURCES.values(), SOURCES["digits"]))
    with pytest.raises(TypeError):
        sources()["other"] = SOURCES["digits"]  # type: ignore[index]


def test_the_page_is_followed(tmp_path: Path) -> None:
    text, inside = PAGE.read_text(encoding="utf8").split("\n## In congruence itself\n")
    assert len(text.splitlines()) <= 60
    module, use = (block.code for block in blocks(PAGE) if block.code not in inside)
    (tmp_path / "my_data").mkdir()
    (tmp_path / "my_data" / "patterns.py").write_text(module)
    data = """
import numpy as np
from pathlib import Path
Path("data").mkdir()
images = np.arange(80 * 64).reshape(80, 1, 8, 8).astype(np.uint8)
labels = np.arange(80) % 2
np.savez("data/patterns.npz", train_images=images[:60], train_labels=labels[:60], test_images=images[60:],
         test_labels=labels[60:])
import congruence as cg
"""
    line = 'print(splits.test.class_names, {row.name: row.where for row in cg.data.available(root="data")}["patterns"])'
    entry_point = text.split('entry-points."congruence.datasets"]\n')[1].split("\n")[0]
    lines = run(tmp_path, entry_point.replace('"', ""), f"{data}{use}{line}")
    assert lines == ["('across', 'down') data"]
