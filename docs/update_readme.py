"""Write the tables of the README from what the commands gave: `python docs/update_readme.py [runs/demo]`.

With a folder, the demo's results there are first kept as benchmarks/results/demo.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import generated
from generated import ROOT, lines, origin, teachers

from congruence.bench.table import cells, text
from congruence.methods import catalogue

README = ROOT / "README.md"
KEPT = ROOT / "benchmarks" / "results" / "demo.json"


def keep(folder: Path) -> None:
    """Keep the results of a demo, with the machine and the versions."""
    value = {**origin("congruence demo"), "teachers": teachers(folder), "rows": lines(folder / "results.jsonl")}
    KEPT.write_text(json.dumps(value, indent=1) + "\n", encoding="utf8")


def tables() -> dict[str, str]:
    """Return the README's generated parts by name."""
    kept = json.loads(KEPT.read_text(encoding="utf8"))
    rows = map(catalogue.row, catalogue.keys())
    methods = ["| key | what is transferred | weight |", "|---|---|---|"]
    methods += [f"| `{row.key}` | {row.summary} | {_weight(row.weight)} |" for row in rows]
    return {"demo": text(cells(kept["rows"], kept["teachers"])), "methods": "\n".join(methods)}


def _weight(weight: float | Mapping[str, float]) -> str:
    """Write a weight, or that of each part."""
    parts = weight.items() if isinstance(weight, Mapping) else [("", weight)]
    return ", ".join(f"{part} {value:g}".strip() for part, value in parts)


def filled(readme: str) -> str:
    """Return the README with its generated parts as they are now."""
    return generated.filled(readme, tables())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        keep(Path(sys.argv[1]))
    README.write_text(filled(README.read_text(encoding="utf8")), encoding="utf8")
