"""Write the tables of the README from what the commands gave: `python docs/update_readme.py [runs/demo]`.

With a folder, the demo's results there are first kept as benchmarks/results/demo.json.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from congruence.bench.table import cells, text
from congruence.methods import catalogue

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
KEPT = ROOT / "benchmarks" / "results" / "demo.json"


def keep(folder: Path) -> None:
    """Keep the results of a demo, with the machine and the versions."""
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf8").splitlines()]
    teachers = [json.loads(path.read_text(encoding="utf8")) for path in sorted(folder.glob("teachers/*/teacher.json"))]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    machine = {"processor": platform.machine(), "python": platform.python_version(), "torch": torch.__version__}
    value = {"command": "congruence demo", "commit": commit.strip(), **machine, "teachers": teachers, "rows": rows}
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
    for name, table in tables().items():
        pattern = rf"(<!-- begin {name}[^>]*-->\n).*?(\n<!-- end {name} -->)"
        readme, found = re.subn(pattern, lambda m, t=table: f"{m[1]}{t}{m[2]}", readme, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"README.md must have one part '{name}' between its markers, has {found}.")
    return readme


if __name__ == "__main__":
    if len(sys.argv) > 1:
        keep(Path(sys.argv[1]))
    README.write_text(filled(README.read_text(encoding="utf8")), encoding="utf8")
