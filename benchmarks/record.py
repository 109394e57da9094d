"""What every benchmark writes beside its figures: the machine, the versions, the commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def cpu() -> str:
    """The processor's own name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str:
    """The commit measured, with "+changes" where the package differs from it, "unknown" outside a checkout."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "src")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def resident(entry: str) -> int:
    """Bytes that this process holds ("VmRSS") or has held at most ("VmHWM"), as Linux counts them."""
    lines = Path("/proc/self/status").read_text(encoding="utf8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(entry))


def figure(
    name: str, value: float, bar: float | None = None, *, least: float | None = None, **more: float
) -> dict[str, Any]:
    """One figure, with the bar that it must not pass, or what it is to reach at least, beside it where there is one."""
    barred: dict[str, Any] = {} if bar is None else {"bar": bar, "within": value <= bar}
    if least is not None:
        barred |= {"least": round(least, 4), "reached": round(value, 4) >= round(least, 4)}
    return {"name": name, "value": round(value, 4), **barred, **more}


def write(name: str, definition: str, figures: list[dict[str, Any]], device: str = "cpu", **more: Any) -> Path:
    """Write a benchmark's results and print them."""
    import numpy
    import torch

    import congruence

    machine: dict[str, Any] = {"cpu": cpu(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    result = {
        "benchmark": name,
        "definition": definition,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "machine": {**machine, "device": device, "system": platform.system()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "congruence": congruence.__version__,
        },
        **more,
        "figures": figures,
    }
    path = RESULTS / (f"{name}.json" if device == "cpu" else f"{name}_{device}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf8")
    wide = max(len(entry["name"]) for entry in figures)
    print(f"{name}: {definition}")
    for entry in figures:
        verdict = "" if entry.get("within", True) else "  OVER THE BAR"
        verdict += "" if entry.get("reached", True) else "  NOT REACHED"
        bar = f"  (bar {entry['bar']})" if "bar" in entry else ""
        bar += f"  (at least {entry['least']})" if "least" in entry else ""
        print(f"  {entry['name']:<{wide}}  {entry['value']:.4f}{bar}{verdict}")
    print(f"written to {path.relative_to(ROOT)}")
    return path
