"""Write the table of the README from what the demo gave: `python docs/update_readme.py [runs/demo]`.

With a folder, the demo's results there are first stored as benchmarks/results/demo.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import generated
from generated import ROOT, lines, origin, teachers

from congruence.bench.planfile import load_plan

README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results" / "demo.json"


def keep(folder: Path) -> None:
    """Store the results of a demo, with the machine and the versions."""
    value = {**origin("congruence demo"), "teachers": teachers(folder), "rows": lines(folder / "results.jsonl")}
    RESULTS.write_text(json.dumps(value, indent=1) + "\n", encoding="utf8")


def demo() -> str:
    """Return the table of the demo's results."""
    result = json.loads(RESULTS.read_text(encoding="utf8"))
    return generated.results(result["rows"], result["teachers"], missing(), more=False)


def missing() -> list[str]:
    """Return the demo's methods that have no results."""
    measured = {row["method"] for row in json.loads(RESULTS.read_text(encoding="utf8"))["rows"]}
    return [method for method in load_plan("demo").recipes if method not in measured]


def filled(readme: str) -> str:
    """Return the README with its table as it is now."""
    return generated.filled(readme, {"demo": demo()})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        keep(Path(sys.argv[1]))
    README.write_text(filled(README.read_text(encoding="utf8")), encoding="utf8")
