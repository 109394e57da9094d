"""Write docs/results.md from the plans' results under results/: `python docs/update_results.py [runs/NAME ...]`.

With folders of finished plans (`congruence bench NAME --out runs/NAME`), their results are first stored there.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from generated import OF_EVERY_ROW, OWN_KEYS, ROOT, filled, lines, origin, results, teachers

from congruence.bench.planfile import load_plan
from congruence.bench.table import split

PAGE = ROOT / "docs" / "results.md"
RESULTS = ROOT / "results"


def keep(folder: Path) -> None:
    """Store the results of a finished plan: a line for each cell, trial and teacher, and where they come from."""
    name, plan, done = folder.name, load_plan(folder.name), lines(folder / "results.jsonl")
    part = plan.only(*{row["variant"] for row in done})
    if len(done) != len(part.cells()):
        raise ValueError(f"'{folder}' has {len(done)} of the plan's {len(part.cells())} cells: let it finish first.")
    target = RESULTS / name
    target.mkdir(parents=True, exist_ok=True)
    for file in ("results.jsonl", "tuning.jsonl"):
        if (folder / file).exists():
            shutil.copyfile(folder / file, target / file)
    teacher_lines = "".join(json.dumps(teacher) + "\n" for teacher in teachers(folder))
    (target / "teachers.jsonl").write_text(teacher_lines, encoding="utf8")
    chosen = [f" --variant {variant}" for variant in part.variants] if part != plan else []
    about = origin(f"congruence bench {name} --out runs/{name}{''.join(chosen)}")
    (target / "origin.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf8")


def missing(name: str) -> list[str]:
    """Return a plan's methods that have no results, and the catalogue's where it should have them all."""
    measured = {row["method"] for row in lines(RESULTS / name / "results.jsonl")}
    wanted = dict.fromkeys([*load_plan(name).recipes, *(OWN_KEYS if name == OF_EVERY_ROW else ())])
    return [method for method in wanted if method not in measured]


def part(name: str) -> str:
    """Return what a plan is for, its tables, and where its numbers come from."""
    folder = RESULTS / name
    plan = (ROOT / "plans" / f"{name}.toml").read_text(encoding="utf8").splitlines()
    comment = plan[: next(number for number, line in enumerate(plan) if not line.startswith("#"))]
    rows, teacher_rows = (lines(folder / file) for file in ("results.jsonl", "teachers.jsonl"))
    paragraphs = [" ".join(line.removeprefix("#").strip() for line in comment)]
    methods, tables = {row["method"] for row in rows}, split(rows)
    for number, (title, table) in enumerate(tables.items()):
        paragraphs += [f"**{title}**"] if len(tables) > 1 else []
        without = [] if title in methods else missing(name)  # a method's own table has its variants alone
        paragraphs.append(results(table, () if number else teacher_rows, without, more=True))
    seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
    about = json.loads((folder / "origin.json").read_text(encoding="utf8"))
    paragraphs.append(
        f"`{about['command']}`; seeds {seeds}; commit {about['commit']}; {about['processor']}; Python "
        f"{about['python']}, torch {about['torch']}. Every line: `results/{name}/`."
    )
    return "\n\n".join(paragraphs)


def names() -> list[str]:
    """Return the plans that have results."""
    return sorted(path.parent.name for path in RESULTS.glob("*/results.jsonl"))


def page(now: str) -> str:
    """Return the page with the results as they are now; a plan that it does not have yet comes last."""
    for name in names():
        if f"<!-- begin {name}:" not in now:
            now += f"\n## {name}\n\n<!-- begin {name}: written by docs/update_results.py -->\n<!-- end {name} -->\n"
    return filled(now, {name: part(name) for name in names()})


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        keep(Path(argument))
    PAGE.write_text(page(PAGE.read_text(encoding="utf8")), encoding="utf8")
