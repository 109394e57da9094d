"""What says the version says the same one, and the changelog has the headings of Keep a Changelog."""

from __future__ import annotations

import re
import tomllib

from _harness.pages import ROOT

import congruence as cg

CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf8")
SECTIONS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf8")
    said = dict(re.findall(r'^(version|date-released|license): "?([^"\n]+)"?$', citation, re.MULTILINE))
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", CHANGELOG, re.MULTILINE)
    assert project["version"] == cg.__version__ == said["version"] == released[0][0]
    assert said["date-released"] == released[0][1]
    assert project["license"] == said["license"]


def test_the_changelog_has_its_headings():
    headings = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])
    assert set(re.findall(r"^### (.+)$", CHANGELOG, re.MULTILINE)) <= set(SECTIONS)
