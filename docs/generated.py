"""What the scripts beside this file share: where results come from, and the generated parts of a page."""

from __future__ import annotations

import json
import platform
import re
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
_record = runpy.run_path(str(ROOT / "benchmarks" / "record.py"), run_name="record")


def origin(command: str) -> dict[str, str]:
    """Return what a result is kept with: the command, the commit, the machine and the versions."""
    machine = {"processor": f"{platform.machine()}, {_record['cpu']()}", "python": platform.python_version()}
    return {"command": command, "commit": _record["commit"](), **machine, "torch": torch.__version__}


def lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line; none where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()] if path.exists() else []


def teachers(folder: Path) -> list[dict[str, Any]]:
    """Read the numbers of the teachers of a plan's folder."""
    written = lines(folder / "teachers.jsonl")
    return written or [json.loads(path.read_text("utf8")) for path in sorted(folder.glob("teachers/*/teacher.json"))]


def filled(page: str, parts: Mapping[str, str]) -> str:
    """Return a page with its generated parts, which stand between markers, as they are now."""
    for name, part in parts.items():
        pattern = rf"(<!-- begin {re.escape(name)}[ :][^>]*-->\n).*?(\n?<!-- end {re.escape(name)} -->)"
        page, found = re.subn(pattern, lambda m, t=part: f"{m[1]}{t}\n{m[2].lstrip()}", page, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"The page must have one part '{name}' between its markers, has {found}.")
    return page
