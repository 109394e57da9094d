"""Pages that say how something is added, followed to the letter: their files are written, their commands run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from _harness.pages import ROOT

import congruence as cg

SOURCES = str(Path(cg.__file__).parents[1])
_FENCE = re.compile(
    r"(?:(?P<lead>[^\n]*(?:\n[^\n]+)*)\n\n)?(?:<!-- [^\n]* -->\n)?^```(?P<kind>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_FILE = re.compile(r"`([\w./-]+\.\w+)`")
_COPIED = ("src", "tests", "docs", "recipes", "plans", "results", "benchmarks")
_FILES = ("README.md", "CHANGELOG.md", "Makefile", "pyproject.toml", "constraints.txt")


class Fence(NamedTuple):
    """A block: the paragraph before it, its kind, and its text; `file` where that paragraph is a file's name alone."""

    lead: str
    kind: str
    code: str

    @property
    def file(self) -> str | None:
        name = _FILE.fullmatch(self.lead)
        return name[1] if name else None

    @property
    def named(self) -> str:
        """The first file that the paragraph before it names."""
        return _FILE.findall(self.lead)[0]

    @property
    def quoted(self) -> str:
        """What stands first between backticks in the paragraph before it."""
        return re.findall(r"`([^`]+)`", self.lead)[0]


def fences(text: str) -> list[Fence]:
    """Return the blocks of a page, or of a part of one."""
    found = [Fence((m["lead"] or "").strip(), m["kind"], m["code"]) for m in _FENCE.finditer(text)]
    if 2 * len(found) != len(re.findall(r"^```", text, re.MULTILINE)):
        raise ValueError("a block is not closed")
    return found


def write(folder: Path, fence: Fence) -> None:
    """Write a file of the page."""
    assert fence.file
    path = folder / fence.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(fence.code, encoding="utf8")


def checkout(folder: Path) -> Path:
    """Copy what a checkout of congruence has into a folder."""
    for name in _COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in _FILES:
        shutil.copy(ROOT / name, folder / name)
    return folder


def install(folder: Path) -> None:
    """Do what `pip install -e .` does for a package: put it on the path with its entry points."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf8"))["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))


def execute(folder: Path, *arguments: str, sources: str = SOURCES, program: str = sys.executable) -> str:
    """Run Python, or another program, in a folder that is on the path as an installed package is."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV", "MAKE", "MFL"))}
    environment = {
        **ours,
        "PYTHONPATH": os.pathsep.join([str(folder), sources]),
        "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",
        "CONGRUENCE_REPORT": "0",
    }
    done = subprocess.run(
        [program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{arguments}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def steps(fence: Fence) -> Iterable[tuple[str, list[str]]]:
    """Yield the commands of a console, each with the lines that it must print."""
    for step in fence.code.split("$ ")[1:]:
        command, *expected = step.splitlines()
        yield command, expected


def prints(command: str, expected: list[str], printed: str) -> None:
    """Check that a command prints what the page says."""
    for line in expected:
        assert line in printed, f"`{command}` does not print {line!r} but:\n{printed}"
