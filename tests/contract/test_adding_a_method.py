"""`docs/develop/adding-a-method.md`, followed to the letter in a package of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from _harness.pages import ROOT, blocks

import congruence as cg

PAGE = ROOT / "docs" / "develop" / "adding-a-method.md"
TEXT = PAGE.read_text(encoding="utf8")
_FENCE = re.compile(
    r"(?:^`(?P<file>[\w./-]+)`\n\n)?(?:<!-- [^\n]* -->\n)?^```(?P<kind>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
FENCES = list(_FENCE.finditer(TEXT))


def test_every_block_is_a_file_a_script_or_commands():
    assert len(FENCES) == TEXT.count("\n```") // 2
    assert {m["kind"] for m in FENCES if not m["file"]} == {"console", "python"}
    assert [m["kind"] for m in FENCES].count("python") == len(blocks(PAGE))
    assert sum(m["kind"] == "console" for m in FENCES) == 3


def install(folder):
    """Do what `pip install -e .` does for such a package: put it on the path with its entry points."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf8"))["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))


def execute(folder, *arguments):
    """Run Python in the package's folder, which is on its path as an installed package is."""
    paths = os.pathsep.join([str(folder), str(Path(cg.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{arguments}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The page's files, written down."""
    folder = tmp_path_factory.mktemp("my-methods")
    for match in FENCES:
        if match["file"]:
            path = folder / match["file"]
            path.parent.mkdir(exist_ok=True)
            path.write_text(match["code"], encoding="utf8")
    return folder


@pytest.mark.slow
def test_the_page_is_right(package):
    for match in FENCES:
        if match["kind"] == "console":
            for step in match["code"].split("$ ")[1:]:
                command, *expected = step.splitlines()
                program, *arguments = command.split()
                if command == "pip install -e .":
                    install(package)
                    continue
                printed = execute(package, "-m", program, *arguments)
                for line in expected:
                    assert line in printed, f"`{command}` does not print {line!r} but:\n{printed}"
        elif not match["file"]:
            # By its key the row keeps the contract, too.
            checked = "from congruence.testing import check_row\ncheck_row('centre_distance')\nprint('checked')"
            assert execute(package, "-c", f"{match['code']}\n{checked}") == "checked\n"
