"""What the benchmarks that train students share: a line for each student, and what a row gains over another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from congruence.bench.against import difference
from congruence.core.files import append_line, read_lines


def completed(out: Path, cells: Iterable[dict[str, Any]], train: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """Every line of the file, after those of cells that it had not: `train` takes a cell's entries."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for cell in cells:
        if not any(cell.items() <= line.items() for line in read_lines(out)):
            append_line(out, train(**cell))
            print(read_lines(out)[-1], flush=True)
    return read_lines(out)


def gained(differences: Sequence[float]) -> dict[str, float]:
    """The mean of paired differences, one a seed, and the ends of its interval."""
    gain = difference(differences)
    return {"gain": round(gain.mean, 2), "low": round(gain.low, 2), "high": round(gain.high, 2)}
