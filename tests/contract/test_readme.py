"""The README is short, and every page that it names is there; its figures are checked by `make figures`."""

from __future__ import annotations

import re

from _harness.pages import ROOT
from typer.main import get_command

from congruence.cli.main import app

README = (ROOT / "README.md").read_text(encoding="utf8")


def test_it_is_short():
    assert len(README.split()) <= 1000


def test_what_it_links_to_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 20
    assert not [link for link in links if not (ROOT / link).exists()]


def test_the_verbs_that_it_shows_are_those_of_the_program():
    verbs = set(re.findall(r"^congruence (\w+)", README, re.MULTILINE))
    assert {"distill", "compare", "export"} <= verbs <= set(get_command(app).commands)
