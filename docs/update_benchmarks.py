"""Write docs/benchmarks.md from the figures under benchmarks/results: `python docs/update_benchmarks.py`.

The curve of the shares goes to docs/guide/balanced-weights.md.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from generated import NOTHING, OWN_KEYS, ROOT, filled

from congruence.methods.catalogue import ROWS

FOLDER = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
BALANCED = ROOT / "docs" / "guide" / "balanced-weights.md"
HEAD = """# Benchmarks

Written by `python docs/update_benchmarks.py` from `benchmarks/results/`, which `make bench` and `make bench-large` \
write anew (all but `one_epoch`, `first_tries`, `first_texts`, `best_epoch`, `course`, `other_classes`, `photographs` \
and `image_files`, which train for some minutes, `peers`, which needs other people's code, and those of a GPU). \
Figures are ratios taken in one process where nothing else is said, with the other form beside them in the \
benchmark's file: they say the same on another machine, where milliseconds do not. A bar is what a figure must not \
pass; `least` is what it is to reach.
"""
# Rows for transformers' tokens, whose layers must be named, have none in the pair of residual networks.
_OF_PAIR = [row for row in ROWS if not (row.needs.naming and "tokens" in row.needs.roles)]
# The benchmarks of every row of the catalogue, and the figures they have when each row is measured.
OF_ROWS = {
    "method_cost": tuple(row.key for row in _OF_PAIR),
    "one_epoch": OWN_KEYS,
    "step_overhead": tuple(row.key for row in _OF_PAIR if "maps" not in row.needs.roles or row.needs.unnamed),
}


def missing(benchmark: str, figures: list[dict[str, Any]]) -> list[str]:
    """Return the figures that a benchmark still has to measure."""
    measured = {entry["name"] for entry in figures}
    return [name for name in OF_ROWS.get(benchmark, ()) if name not in measured]


def table(figures: list[dict[str, Any]], without: list[str]) -> list[str]:
    """Return the figures as a table, with a column for each further number that one of them has.

    What is not measured comes last, as dashes.
    """
    limits, verdicts = ("bar", "least"), ("within", "reached")
    more = list(
        dict.fromkeys(key for entry in figures for key in entry if key not in ("name", "value", *limits, *verdicts))
    )
    barred = [limit for limit in limits if any(limit in entry for entry in figures)]
    columns = ["value", *barred, *more]
    lines = ["| figure | " + " | ".join(column.replace("_", " ") for column in columns) + " |"]
    lines.append("|---|" + "---:|" * len(columns))
    for entry in figures:
        mark = " (over)" if entry.get("within") is False else " (under)" if entry.get("reached") is False else ""
        values = [_number(entry[column]) if column in entry else NOTHING for column in columns]
        lines.append(" | ".join([f"| {entry['name']}", values[0] + mark, *values[1:]]) + " |")
    return lines + [" | ".join([f"| {name}", *[NOTHING] * len(columns)]) + " |" for name in without]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def part(path: Path) -> str:
    """Return one benchmark's part of the page."""
    result = json.loads(path.read_text(encoding="utf8"))
    machine, versions, figures = result["machine"], result["versions"], result["figures"]
    where = f"{machine['cores']} × {machine['cpu']}" if machine["device"] == "cpu" else machine["gpu"]
    script = f"benchmarks/{result['benchmark']}.py"
    summary = (ROOT / script).read_text(encoding="utf8").split('"""')[1].splitlines()[0]
    lines = [f"## {path.stem}", "", summary, "", f"Value: {result['definition']}.", ""]
    lines += [*table(figures, missing(result["benchmark"], figures)), ""]
    if "note" in result:
        lines += [f"{result['note']}.", ""]
    if tests := result.get("tests"):
        lines += [f"Tests on the device: {tests['passed']} passed, {len(tests['failed'])} failed.", ""]
        lines += [f"- {failure}" for failure in tests["failed"]] + ([""] if tests["failed"] else [])
    source = f"`python {script}`; {result['date']}; commit {result['commit']}; {where}, {machine['threads']} thread"
    lines.append(f"{source}{'s' * (machine['threads'] > 1)}; Python {versions['python']}, torch {versions['torch']}.")
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the page with the figures as they are now."""
    names = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    paths = [path for path in sorted(FOLDER.glob("*.json")) if path.stem.removesuffix("_cuda") in names]
    return "\n".join([HEAD, *map(part, paths)])


def curves() -> str:
    """Return a table for each setting of `benchmarks/shares.py`: what rows gain over cross-entropy at each share."""
    lines = json.loads((FOLDER / "shares.json").read_text(encoding="utf8"))["lines"]
    parts = []
    for setting in dict.fromkeys(line["setting"] for line in lines):
        here = [line for line in lines if line["setting"] == setting]
        alone = {line["seed"]: line["best"] for line in here if line["share"] is None}
        gains: dict[tuple[str, float], list[float]] = {}
        for line in here:
            if line["share"] is not None:
                gains.setdefault((line["row"], line["share"]), []).append(line["best"] - alone[line["seed"]])
        shares = sorted({share for _, share in gains})
        of_ce = " and ".join(f"{value:.1f}" for value in alone.values())
        parts += [f"{setting}: points above `ce` of the same seed ({of_ce} %).", ""]
        parts += ["| row | " + " | ".join(f"share {share:g}" for share in shares) + " |"]
        parts += ["|---|" + "---:|" * len(shares)]
        for row in dict.fromkeys(row for row, _ in gains):
            of_row = [gains.get((row, share), []) for share in shares]
            cells = [f"{statistics.fmean(each):+.1f} ({len(each)})" if each else NOTHING for each in of_row]
            parts.append(f"| {row} | {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts).rstrip()


def balanced(now: str) -> str:
    """Return the page of balanced weights with the curves as they are now."""
    return filled(now, {"shares": curves()})


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf8")
    BALANCED.write_text(balanced(BALANCED.read_text(encoding="utf8")), encoding="utf8")
