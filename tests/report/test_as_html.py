"""A page as one file: nothing in it is run but its own scripts, and nothing is asked of the network."""

import json
import re
from html.parser import HTMLParser

import pytest
from _harness.shown import HOSTILE, NAMES, page

from congruence.report import as_html
from congruence.report.as_html import Page, as_data, render, write

pytest.importorskip("jinja2")
pytest.importorskip("plotly")


class Read(HTMLParser):
    """The elements of a page, and the text of each script."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.texts, self.inside = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.inside = tag == "script"
        self.scripts += [""] if self.inside else []

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, text):
        if self.inside:
            self.scripts[-1] += text
        else:
            self.texts.append(text)


@pytest.fixture(scope="module")
def text():
    return render(page())


def test_hostile_texts_stay_texts(text):
    read = Read(text)
    assert [tag for tag, _ in read.elements].count("script") == 3
    assert not [values for _, values in read.elements if any(name.startswith("on") for name in values)]
    assert [each for tag, each in read.elements if tag == "img"] == []
    assert f"All of it {HOSTILE}" in "".join(read.texts)
    assert read.scripts[0].count("<") == 0
    data = json.loads(read.scripts[0])
    assert tuple(data["samples"][0]["classes"]) == NAMES
    assert data["curves"]["kd"]["losses"]["loss"][2] == [20, None]
    assert len(data["views"]) == 2
    assert [view["samples"] for view in data["views"]] == [0, 0]


def test_nothing_is_asked_of_the_network(text):
    read = Read(text)
    linked = [value for _, each in read.elements for name, value in each.items() if name in ("src", "href", "srcset")]
    assert {value for value in linked if not value.startswith("#")} == {"data:,"}
    policy = next(each["content"] for _, each in read.elements if each.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    assert len(text.encode()) < 8_000_000


def test_each_figure_has_a_place_and_each_place_a_figure(text):
    own = Read(text).scripts[2]
    asked = set(re.findall(r'byId\("([\w-]+)"\)', own))
    there = {values["id"] for _, values in Read(text).elements if "id" in values}
    assert asked <= there


def test_a_page_with_nothing_says_why(tmp_path):
    empty = Page("Nothing", left={"maps": ["No teacher."], "curves": ["No metrics."], "results": ["No numbers."]})
    path = write(empty, tmp_path / "deep" / "page.html")
    read = Read(path.read_text(encoding="utf8"))
    told = " ".join(read.texts)
    assert all(sentence in told for sentence in ("No teacher.", "No metrics.", "No numbers."))
    ids = {values["id"] for _, values in read.elements if "id" in values}
    assert "costs" not in ids
    assert {"results", "curves", "maps", "made"} <= ids
    assert "similarity" not in ids


def test_data_may_hold_anything():
    assert as_data({"a": [float("inf"), 1.5, True, "</script>&"]}) == (
        '{"a":[null,1.5,true,"\\u003c/script\\u003e\\u0026"]}'
    )


def test_without_the_extra_it_is_one_sentence(monkeypatch):
    monkeypatch.setattr(as_html, "_NEEDED", ("jinja2", "plotly_that_is_not_there"))
    sentence = "A page needs plotly_that_is_not_there, which is not installed: pip install 'congruence[report]'."
    with pytest.raises(ValueError, match=re.escape(sentence)):
        render(Page("Nothing"))
