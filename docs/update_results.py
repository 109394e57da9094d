"""Write docs/results.md from the plans' results that are kept: `python docs/update_results.py [runs/NAME ...]`.

With folders of finished plans (`congruence bench NAME --out runs/NAME`), their results are first kept under results/.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from generated import ROOT, filled, lines, origin, teachers

from congruence.bench.planfile import load_plan
from congruence.bench.table import cells, split, text

PAGE = ROOT / "docs" / "results.md"
KEPT = ROOT / "results"


def keep(folder: Path) -> None:
    """Keep the results of a finished plan: a line for each cell, trial and teacher, and where they come from."""
    name, plan, done = folder.name, load_plan(folder.name), lines(folder / "results.jsonl")
    part = plan.only(*{row["variant"] for row in done})
    if len(done) != len(part.cells()):
        raise ValueError(f"'{folder}' has {len(done)} of the plan's {len(part.cells())} cells: let it finish first.")
    kept = KEPT / name
    kept.mkdir(parents=True, exist_ok=True)
    for file in ("results.jsonl", "tuning.jsonl"):
        if (folder / file).exists():
            shutil.copyfile(folder / file, kept / file)
    taught = "".join(json.dumps(teacher) + "\n" for teacher in teachers(folder))
    (kept / "teachers.jsonl").write_text(taught, encoding="utf8")
    chosen = [f" --variant {variant}" for variant in part.variants] if part != plan else []
    about = origin(f"congruence bench {name} --out runs/{name}{''.join(chosen)}")
    (kept / "origin.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf8")


def part(name: str) -> str:
    """Return what a plan is for, its tables, and where its numbers come from."""
    kept = KEPT / name
    plan = (ROOT / "plans" / f"{name}.toml").read_text(encoding="utf8").splitlines()
    head = plan[: next(place for place, line in enumerate(plan) if not line.startswith("#"))]
    rows, taught = (lines(kept / file) for file in ("results.jsonl", "teachers.jsonl"))
    said = [" ".join(line.removeprefix("#").strip() for line in head)]
    tables = split(rows)
    for place, (title, table) in enumerate(tables.items()):
        said += [f"**{title}**"] if len(tables) > 1 else []
        said.append(text(cells(table, taught if place == 0 else (), more=True)))
    seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
    about = json.loads((kept / "origin.json").read_text(encoding="utf8"))
    said.append(
        f"`{about['command']}`; seeds {seeds}; commit {about['commit']}; {about['processor']}; Python "
        f"{about['python']}, torch {about['torch']}. Every line: `results/{name}/`."
    )
    return "\n\n".join(said)


def names() -> list[str]:
    """Return the plans whose results are kept."""
    return sorted(path.parent.name for path in KEPT.glob("*/results.jsonl"))


def page(now: str) -> str:
    """Return the page with the results as they are kept now; a plan that it does not have yet comes last."""
    for name in names():
        if f"<!-- begin {name}:" not in now:
            now += f"\n## {name}\n\n<!-- begin {name}: written by docs/update_results.py -->\n<!-- end {name} -->\n"
    return filled(now, {name: part(name) for name in names()})


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        keep(Path(argument))
    PAGE.write_text(page(PAGE.read_text(encoding="utf8")), encoding="utf8")
