"""CONTRIBUTING.md and the templates name commands, files and links that are there."""

from __future__ import annotations

import re

import pytest
from _harness.pages import ROOT

GITHUB = ROOT / ".github"
PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "develop").glob("*.md"))]
TARGETS = set(re.findall(r"^([\w./$()-]+):", (ROOT / "Makefile").read_text(encoding="utf8"), re.MULTILINE))
TARGETS |= {".venv/ready"}  # $(VENV)/ready


def anchor(heading):
    """The part of a link behind "#", as GitHub makes it of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_named_is_there(page):
    text = page.read_text(encoding="utf8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    for link in (link for link in links if "://" not in link):
        path, _, part = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf8"), re.MULTILINE) if part else []
        assert not part or part in map(anchor, headings), link
    for target in re.findall(r"(?:`|^)make ([\w./-]+)", text, re.MULTILINE):
        assert target in TARGETS, target


def test_the_files_that_it_names_are_there():
    folders = "src|tests|docs|benchmarks|findings|results"
    paths = re.findall(rf"`((?:{folders})/[\w./-]*)`", PAGES[0].read_text(encoding="utf8"))
    assert len(paths) > 8
    assert not [path for path in paths if "NAME" not in path and not (ROOT / path).exists()]


def test_the_templates_name_what_is_there():
    for page in GITHUB.rglob("*"):
        if page.is_file():
            text = page.read_text(encoding="utf8")
            named = re.findall(r"(?:docs|tests)/[\w./-]+\.(?:md|txt|py)|\b[A-Z]{2,}\.md", text)
            assert all((ROOT / path).exists() for path in named), page
    forms = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
    assert [form.stem for form in forms] == ["bug", "config", "method"]
    for form in forms[::2]:
        assert {"name", "description", "body"} <= set(re.findall(r"^(\w+):", form.read_text(encoding="utf8"), re.M))
