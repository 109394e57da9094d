"""The generated parts of the pages of papers: what here belongs to one, and tables of docs/results.md.

A part stands between marks that say what it is: `rows KEY ...`, `recipes PATTERN ...`, `tables PATTERN ...` (plans of
plans/paper), or a plan's name with the rows to show (all where none is named).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import generated
from generated import NOTHING, ROOT
from prose import markdown, table

from congruence.bench.planfile import load_plan
from congruence.bench.published import AVERAGE
from congruence.bench.table import averaged, mean_sd
from congruence.config.shipped import shipped
from congruence.evaluation.stored import described
from congruence.methods import catalogue

RESULTS = ROOT / "docs" / "results.md"
_MARK = re.compile(r"<!-- begin (?P<name>[\w-]+)(?P<words>[^:>]*): written by docs/update_reference\.py -->")
_TABLE = re.compile(r"(?:^\*\*(?P<title>\w+)\*\*\n\n)?(?P<lines>(?:^\|.*\n)+)", re.MULTILINE)
_ORIGIN = re.compile(r"^`congruence bench .*$", re.MULTILINE)
_UNFINISHED = re.compile(r"^\*\*(Unfinished: .*)\*\*$", re.MULTILINE)
_COLUMNS = ("", "accuracy, best (%)", "retrieval mAP (%)", "GPCL", "kernel error (cosine)", "W2²", "weight ×")


def filled(path: Path) -> str:
    """Return a paper's page with its generated parts as they are now."""
    page = path.read_text(encoding="utf8")
    kinds: dict[str, Callable[[list[str]], str]] = {"rows": rows, "recipes": recipes, "tables": tables}
    parts = {}
    for mark in _MARK.finditer(page):
        name, words = mark["name"], mark["words"].split()
        parts[name] = kinds[name](words) if name in kinds else measured(name, words)
    return generated.filled(page, parts)


def rows(keys: list[str]) -> str:
    """Return the table of some methods."""
    found = {row.key: row for row in catalogue.ROWS}
    cells = [[f"[`{key}`](../reference/methods.md#{key})", markdown(found[key].summary)] for key in keys]
    return table(["key", "what is transferred"], cells)


def recipes(patterns: list[str]) -> str:
    """Return the table of some recipes, with the first sentence of each one's head and what it says was published."""
    paths = [path for pattern in patterns for path in sorted((ROOT / "recipes").glob(f"{pattern}.toml"))]
    cells = []
    for path in paths:
        sentences = _sentences(_head(path))
        published = [each for each in sentences[1:] if each.startswith("Published")]
        cells.append([f"`{path.parent.name}/{path.stem}`", markdown(" ".join([sentences[0], *published[:1]]))])
    return table(["recipe", "what it is"], cells)


def tables(patterns: list[str]) -> str:
    """Return for each of some plans its command, and what is published and what was measured of each of its rows."""
    paths = [path for pattern in patterns for path in sorted((ROOT / "plans" / "paper").glob(f"{pattern}.toml"))]
    return "\n\n".join(part for path in paths for part in _of_table(f"paper/{path.stem}"))


def _of_table(name: str) -> list[str]:
    plan = load_plan(name)
    published = plan.published
    if published is None:
        raise ValueError(f"The plan '{name}' has no published numbers.")
    measured = generated.lines(ROOT / "results" / plan.name / "results.jsonl")
    measured += averaged(measured, list(plan.variants), AVERAGE) if plan.average else []
    variants = [*plan.variants, *([AVERAGE] if plan.average else [])]
    named = published.beside({"method": m, "variant": v} for m in plan.recipes for v in variants)
    columns = list(dict.fromkeys((each["variant"], key) for each in named for key in each["published"]))
    numbers = {number.key: number for number in described("plan", {key: 0 for _, key in columns})}
    titles = [", ".join(filter(None, (v, numbers[key].label or key))) for v, key in columns]
    body = []
    for method in plan.recipes:
        cells = []
        for variant, key in columns:
            beside = published.beside([{"method": method, "variant": variant}])[0]["published"].get(key, NOTHING)
            here = [r for r in measured if (r["method"], r["variant"]) == (method, variant) and r.get(key) is not None]
            ours = mean_sd([row[key] * numbers[key].scale for row in here]) if here else None
            spread = "" if ours is None or ours[1] is None else f" ± {ours[1]:.{numbers[key].digits}f}"
            cells.append(f"{beside}" if ours is None else f"{beside}; {ours[0]:.{numbers[key].digits}f}{spread}")
        body.append([f"`{method}`", *cells])
    head = _sentences(_head(shipped("plans", name)))[0]
    run = f"Run: [{plan.name}](../results.md#{plan.name})." if measured else "Not run."
    told = f"**{markdown(head)}** `congruence bench {name}`. {run}"
    return [told, table(["", *titles], body)]


def _head(path: Path) -> str:
    lines = path.read_text(encoding="utf8").splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(line.removeprefix("#").strip() for line in lines[:end])


def _sentences(text: str) -> list[str]:
    """Return the sentences of a text; a full stop within brackets ends none, as in "(app. E.2)"."""
    found, depth, start = [], 0, 0
    for position, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and letter == "." and re.match(r"\. [A-Z]", text[position:]):
            found.append(text[start : position + 1])
            start = position + 2
    return [*found, text[start:]]


def measured(plan: str, names: list[str]) -> str:
    """Return the tables of a plan as docs/results.md has them, of some rows and of the columns that pages show."""
    page = RESULTS.read_text(encoding="utf8")
    part = re.search(rf"<!-- begin {plan}:.*?-->\n(.*?)<!-- end {plan} -->", page, re.DOTALL)
    if part is None:
        raise ValueError(f"docs/results.md has no plan '{plan}'.")
    parts = [f"{said[1]}" for said in _UNFINISHED.finditer(part[1])]
    for match in _TABLE.finditer(part[1]):
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in match["lines"].splitlines()]
        title, *body = [lines[0], *lines[2:]]
        kept = [position for position, name in enumerate(title) if name in _COLUMNS]
        shown = [line for line in body if not names or line[0].partition(",")[0] in (*names, "teacher")]
        parts += [f"`{match['title']}`:"] * bool(match["title"])
        parts.append(table([title[i] for i in kept], [[line[i] for i in kept] for line in shown]))
    origin = _ORIGIN.search(part[1])
    parts.append(
        f"All numbers and their origin: [{plan}](../results.md#{plan}). {origin[0] if origin else ''}".rstrip()
    )
    return "\n\n".join(parts)
