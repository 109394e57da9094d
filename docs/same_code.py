"""Whether changed code of methods trains a plan's rows to the same bits: `python docs/same_code.py PLAN COMMIT`.

Kept lines of a plan are taken over where a hash of their methods' code is what it was. Where it is another one since
COMMIT, every kept row that uses the method is trained in both checkouts on few images, with the plan's own epochs,
schedules and precision. Where all weights and numbers are the same bits, the hash is written to
results/PLAN/same_code.json as one of the same code, and kept lines stay; where not, the rows are named.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from generated import ROOT, lines, origin

from congruence.bench.failed import FAILED
from congruence.bench.kept import RESULTS, SAME
from congruence.bench.naming import cell_name
from congruence.bench.planfile import load_plan
from congruence.bench.teachers import digest_of
from congruence.core.files import read_json, write_json
from congruence.core.kinds import ANY_TABLE

FEW = ("data.train_size=400", "data.validation=100", "stages.student.labels_per_class=20")
_CODES = (
    "import json\n"
    "from congruence.methods.catalogue import ROWS\n"
    "from congruence.bench import identity as i\n"
    "print(json.dumps({'balanced': i._code_from([i._BALANCE]), **{row.key: i.code_of(row.key) for row in ROWS}}))\n"
)
_TRAIN = """
import json, sys
from pathlib import Path
from congruence.bench.planfile import load_plan
from congruence.bench.runner import run_plan
asked = json.loads(sys.argv[1])
plan = load_plan(asked["plan"], overrides=tuple(asked["few"]), seeds=(asked["seed"],))
for variant, methods in asked["rows"].items():
    run_plan(plan.only(variant, methods=methods), Path(asked["out"]), workers=0, afresh=True)
"""
_BALANCED = "balanced"
Row = tuple[str, str]  # a method and a variant


def codes(checkout: Path) -> dict[str, str]:
    """Return the hashes of the methods' code in a checkout, and that of balanced weights."""
    done = subprocess.run(
        [sys.executable, "-c", _CODES], env=_env(checkout), check=True, capture_output=True, text=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def trained(checkouts: Mapping[str, Path], plan: str, rows: Iterable[Row], few: Iterable[str], out: Path) -> list[Any]:
    """Train rows of a plan in checkouts at once; return for each, by cell: row, numbers, hashes of weights."""
    by_variant: dict[str, list[str]] = {}
    for method, variant in rows:
        by_variant.setdefault(variant, []).append(method)
    asked = {"plan": f"{plan}.toml", "rows": by_variant, "few": list(few), "seed": load_plan(plan).seeds[0]}
    running = []
    for name, checkout in checkouts.items():
        told = json.dumps({**asked, "plan": str(checkout / "plans" / asked["plan"]), "out": str(out / name)})
        running.append(subprocess.Popen([sys.executable, "-c", _TRAIN, told], env=_env(checkout)))
    if any([each.wait() for each in running]):
        raise ValueError("A plan did not run: see above.")
    return [_came_out(out / name) for name in checkouts]


def _came_out(run: Path) -> dict[str, Any]:
    found = {}
    for line in lines(run / "results.jsonl"):
        name = cell_name(line["method"], line["variant"], line["seed"])
        files = sorted((run / "cells" / name).glob("student*.safetensors"))
        numbers = {key: value for key, value in line.items() if key not in ("seconds", "made")}
        row = (line["method"], line["variant"])
        found[name] = [row, numbers, {file.name: digest_of(file) for file in files}]
    return found


def _env(checkout: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def rows_of(plan: str, changed: Iterable[str], kept: Collection[Row]) -> dict[str, set[Row]]:
    """Return for each changed part of the code the kept rows of a plan that use it."""
    found: dict[str, set[Row]] = {key: set() for key in changed}
    for cell in load_plan(plan).cells():
        terms = [term for stage in cell.config.stages.values() for term in stage.terms]
        used = {term.key for term in terms} | {_BALANCED for term in terms if term.weight == _BALANCED}
        for key in used & found.keys() if (cell.method, cell.variant) in kept else ():
            found[key].add((cell.method, cell.variant))
    return {key: rows for key, rows in found.items() if rows}


def compare(plan: str, before: Path, after: Path, few: Iterable[str] = FEW) -> tuple[dict[str, str], list[str]]:
    """Return the hashes of code that is the same by those of what it is now, and the cells that differ."""
    old, new = codes(before), codes(after)
    kept = {(line["method"], line["variant"]) for line in lines(after / "results" / plan / RESULTS)}
    changed = rows_of(plan, (key for key in new if key in old and old[key] != new[key]), kept)
    if not changed:
        return {}, []
    rows = sorted(set().union(*changed.values()))
    with tempfile.TemporaryDirectory() as folder:
        first, second = trained({"before": before, "after": after}, plan, rows, few, Path(folder))
    differ = [cell for cell in first if first[cell] != second.get(cell) or FAILED in first[cell][1]]
    moved = {first[cell][0] for cell in differ}
    return {new[key]: old[key] for key, rows in changed.items() if not rows & moved}, differ


def keep(plan: str, commit: str) -> list[str]:
    """Store which changed code since a commit is the same for a plan, and return what is to be told."""
    target = ROOT / "results" / plan / SAME
    known: Mapping[str, Mapping[str, Any]] = read_json(target, {"*": ANY_TABLE}) if target.is_file() else {}
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        subprocess.run([*git, "add", "-q", "--detach", str(before), commit], check=True)
        try:
            same, differ = compare(plan, before, ROOT)
        finally:
            subprocess.run([*git, "remove", "--force", str(before)], check=True)
    about = origin(f"python docs/same_code.py {plan} {commit}")
    told = {code: {"as": known.get(old, {}).get("as", old), **about} for code, old in same.items()}
    if told:
        write_json(target, {**known, **told})
    return [
        f"{len(same)} hashes of changed code train to the same bits.",
        *(f"{cell}: other bits, or failed." for cell in differ),
    ]


if __name__ == "__main__":
    sys.stdout.write("".join(f"{sentence}\n" for sentence in keep(*sys.argv[1:])))
