"""Say which rows still have no figures, and the command that measures them: `python docs/rows_without_figures.py`."""

from __future__ import annotations

import json
import re
import sys

import update_benchmarks
import update_readme
import update_results
from generated import ROOT

_WRITES = re.compile(r"^from record import .*\bwrite\b", re.MULTILINE)


def benchmarks() -> list[str]:
    """Return the benchmarks that write figures."""
    scripts = sorted((ROOT / "benchmarks").glob("*.py"))
    return [script.stem for script in scripts if _WRITES.search(script.read_text(encoding="utf8"))]


def sentences() -> list[str]:
    """Return a sentence for each command whose figures lack rows."""
    gaps: dict[str, list[str]] = {}
    for name in benchmarks():
        paths = [update_benchmarks.FOLDER / f"{stem}.json" for stem in (name, f"{name}_cuda")]
        results = [json.loads(path.read_text(encoding="utf8")) for path in paths if path.exists()]
        command = f"python benchmarks/{name}.py"
        gaps[command] = [] if results else ["any kind"]
        for result in results:
            gaps[command] += update_benchmarks.missing(name, result["figures"])
    for name in update_results.names():
        plan = update_results.shipped_name(name)
        gaps[f"congruence bench {plan} --out runs/{plan}"] = update_results.missing(name)
    gaps["congruence demo"] = update_readme.missing()
    return [f"No figures of {', '.join(rows)}: `{command}`" for command, rows in gaps.items() if rows]


if __name__ == "__main__":
    sys.stdout.write("\n".join([*sentences(), ""]) or "Every row has its figures.\n")
