"""The site: its pages that are written from the code are current and whole, and its menu has every page."""

from __future__ import annotations

import doctest
import functools
import re

import pytest
import yaml
from _harness.pages import ROOT, script

from congruence.methods import catalogue

DOCS = ROOT / "docs"
UPDATE = script("update_reference")
CONFIG, METHODS, FINDINGS = UPDATE.reference_config, UPDATE.reference_methods, UPDATE.reference_findings
# From a definition, or from the documentation of a library: there is no paper to link.
WITHOUT_LINK = {"dist_plus"}


@functools.cache
def pages():
    return UPDATE.written()


@pytest.mark.parametrize("name", [*UPDATE.PAGES, *UPDATE.papers()])
def test_a_page_is_what_the_code_says(name):
    assert (DOCS / name).read_text(encoding="utf8") == pages()[name], "run `python docs/update_reference.py`"


def test_the_examples_in_the_scripts_run():
    done = doctest.testmod(script("prose"))
    assert done.attempted > 1
    assert not done.failed


@pytest.mark.parametrize("place", CONFIG.places(), ids=lambda place: place.model.__name__)
def test_every_key_of_a_configuration_has_a_meaning(place):
    assert not [key for key, meaning in CONFIG.meanings(place.model).items() if not meaning]


def test_the_page_of_the_configuration_has_every_table():
    page = pages()["reference/config.md"]
    models = {place.model for place in CONFIG.places()}
    assert {"RunConfig", "StageConfig", "TermConfig", "SamplerConfig"} < {model.__name__ for model in models}
    assert page.count("\n| key | values |") == len(models)
    anchors = {
        re.sub(r"[^\w\s-]", "", title).lower().replace(" ", "-") for title in re.findall(r"^## (.*)$", page, re.M)
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", page)) <= anchors


def test_the_kinds_of_protocols_are_named():
    said = CONFIG.meanings(CONFIG.ProtocolConfig)["kind"]
    assert set(re.findall(r'"([\w-]+)"', said)) == set(CONFIG.KINDS)


def test_what_a_key_takes_is_what_its_error_says():
    told = {
        (place.model.__name__, key): CONFIG.allowed(place.model, key)
        for place in CONFIG.places()
        for key in place.model.model_fields
    }
    assert told["OptimizerConfig", "momentum"] == "number ≥ 0 and < 1"
    assert told["TrainConfig", "batch_size"] == "integer ≥ 1"
    assert told["TrainConfig", "epochs"] == "integer ≥ 1"
    assert told["DataConfig", "size"] == "integer ≥ 1 or list of 2 integers ≥ 1"
    assert told["OptimizerConfig", "name"] == '`"sgd"` or `"adamw"`'
    assert told["TermConfig", "standardize"] == "true or false"


@pytest.mark.parametrize("row", catalogue.ROWS, ids=lambda row: row.key)
def test_every_method_has_a_year_a_link_and_meanings(row):
    said = re.findall(r"\b(?:19|20)\d\d\b", re.sub(r"https?://\S+|arXiv \S+", "", row.reference))
    assert row.year is not None or not said
    assert row.year is None or not said or str(row.year) in said
    assert bool(row.link) == (row.year is not None and row.key not in WITHOUT_LINK)
    assert not row.link or re.fullmatch(
        r"https://(arxiv\.org/abs/\d{4}\.\d{5}|arxiv\.org/abs/\d{4}\.\d{4}|openaccess\.thecvf\.com/\S+)", row.link
    )
    assert not [name for name, meaning in METHODS.meaning_of_each(row).items() if not meaning]


def test_findings_are_all_there():
    names = {path.name for path in (ROOT / "findings").glob("*.sh")}
    assert names == {finding.name for finding in FINDINGS.findings()}
    assert names


def test_a_finding_without_its_parts_is_told(tmp_path):
    path = tmp_path / "half.sh"
    path.write_text(
        "#!/usr/bin/env bash\n# torch 2.13.0\n#\n# Behaviour: odd.\n# Seen: once.\nset -e\n", encoding="utf8"
    )
    with pytest.raises(ValueError, match=r"half\.sh: its head must have a setting, Behaviour, Seen and Whom it hurts"):
        FINDINGS.read(path)


def cells(text):
    """Each cell of the tables in a text, by its row's name and its column's."""
    found = {}
    for table in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        title, _, *body = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
        for line in body:
            for column, value in zip(title, line, strict=True):
                found.setdefault((line[0], column), []).append(value)
    return found


@pytest.mark.parametrize("name", UPDATE.papers())
def test_the_figures_of_a_paper_are_those_of_the_results(name):
    results = (DOCS / "results.md").read_text(encoding="utf8")
    shown = 0
    for plan, text in re.findall(r"<!-- begin ([\w-]+)[ :][^>]*-->\n(.*?)<!-- end \1 -->", pages()[name], re.DOTALL):
        if plan not in ("rows", "recipes", "tables"):
            whole = cells(re.search(rf"<!-- begin {plan}:.*?<!-- end {plan} -->", results, re.DOTALL)[0])
            part = cells(text)
            assert part
            assert all(set(values) <= set(whole[key]) for key, values in part.items())
            shown += 1
    assert shown > 1


def test_the_menu_has_every_page_and_no_other():
    def paths(entry):
        if isinstance(entry, str):
            return [entry]
        return [path for each in (entry.values() if isinstance(entry, dict) else entry) for path in paths(each)]

    menu = paths(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf8"))["nav"])
    assert len(menu) == len(set(menu))
    assert set(menu) == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


def test_files_that_are_no_pages_are_named():
    inside = script("outside_links").inside
    name = "develop/adding-a-method.md"
    assert inside("[rows](../../src/congruence/methods/rows.py)", name) == "rows (`src/congruence/methods/rows.py`)"
    assert inside("see [`LICENSE`](../../LICENSE).", name) == "see `LICENSE`."
    for left in (
        "[results](../results.md#a)",
        "[gone](../../src/gone.py)",
        "![a](../images/report-demo.png)",
        "```\n[rows](../../LICENSE)\n```\n",
        "[a page](https://example.org/../../LICENSE)",
    ):
        assert inside(left, name) == left


def test_what_a_page_asks_of_another_host_is_found(tmp_path):
    check = script("check_site")
    (tmp_path / "index.html").write_text(
        '<link rel="stylesheet" href="https://fonts.example/a.css"><link rel="canonical" href="https://here.example/">'
        '<a href="https://arxiv.org/">a link</a><img src="images/own.png"><img src="//pictures.example/b.png">'
        "<style>@import 'https://styles.example/c.css';</style>",
        encoding="utf8",
    )
    (tmp_path / "own.css").write_text("p { background: url(https://pictures.example/d.png) }", encoding="utf8")
    asked = [problem for problem in check.problems(tmp_path) if "of another host" in problem]
    hosts = [re.search(r"//(\w+\.example/\w\.\w+)", problem)[1] for problem in asked]
    assert hosts == ["fonts.example/a.css", "pictures.example/b.png", "styles.example/c.css", "pictures.example/d.png"]


def test_a_public_name_without_a_place_is_found(tmp_path):
    (tmp_path / "index.html").write_text('<h2 id="congruence.Term">Term</h2>', encoding="utf8")
    missing = list(script("check_site").problems(tmp_path))
    assert any(problem.startswith("congruence.Distiller: ") for problem in missing)
    assert not any(problem.startswith("congruence.Term: ") for problem in missing)


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: path.relative_to(DOCS).as_posix())
def test_lists_and_tables_are_seen_by_both_readers(path):
    """GitHub sees a list or a table that follows a line of text, and what two spaces indent; the site does not."""
    wrong, before, code = [], "", False
    for number, line in enumerate(path.read_text(encoding="utf8").splitlines(), 1):
        code ^= line.lstrip().startswith("```")
        listed, in_list = re.match(r"\s*([-*+]|\d+\.) ", line), re.match(r"\s*([-*+]|\d+\.) |  ", before)
        text = before.strip() and not before.startswith(("|", "<!--"))
        if not code and ((listed and text and not in_list) or (line.startswith("|") and text)):
            wrong.append(f"line {number}: needs an empty line before it")
        if not code and re.match(r" {1,3}([-*+]|\d+\.) ", line):
            wrong.append(f"line {number}: what is inside a list must be indented by four spaces")
        before = line
    assert not wrong
