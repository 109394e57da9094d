"""Every pinned package installs on the oldest Python that the README names, such as Debian 12's 3.11.2."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, metadata

from _harness.pages import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet


def test_the_pins_that_are_installed_here_accept_the_oldest_python():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    oldest = f"{project['requires-python'].removeprefix('>=')}.0"
    refused, read = {}, 0
    for line in (ROOT / "constraints.txt").read_text(encoding="utf8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name = Requirement(line.partition(" #")[0]).name
        try:
            asked = metadata(name).get("Requires-Python") or ""
        except PackageNotFoundError:
            continue
        read += 1
        if oldest not in SpecifierSet(asked):
            refused[name] = asked
    assert read > 50
    assert refused == {}
