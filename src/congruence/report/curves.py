"""A run's metrics.jsonl as curves: losses, shares of the gradient, weights, rate, validation and diagnostics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from congruence.core.files import read_lines
from congruence.training.record import norms_by_term
from congruence.training.saving.run_directory import RunDirectory

_PLACE = ("step", "epoch")
_POINTS = 400  # of one curve
Curves = dict[str, dict[str, list[list[float]]]]


def curves(folder: Path) -> Curves:
    """Return a run's curves, [step, value] each, by group and name; {} if it has logged nothing.

    Groups are "losses" (the whole loss and each term's, unweighted), "gradient shares" (‖∇term‖ / Σ ‖∇term‖, a term of
    several parts by its largest), "weights" (balanced ones), "rate" (the learning rate, the norm of the gradient),
    "validation" and "diagnostics".
    """
    found: Curves = {}
    for line in read_lines(RunDirectory(folder).metrics):
        step = line.get("step")
        if not isinstance(step, int):
            continue
        for group, name, value in _values(line):
            if isinstance(value, int | float):
                found.setdefault(group, {}).setdefault(name, []).append([step, float(f"{value:.5g}")])
    return {group: {name: _thinned(points) for name, points in each.items()} for group, each in found.items()}


def _values(line: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield (group, name, value) of one line.

    Example:
        >>> list(_values({"step": 5, "loss": 2.0, "gradient_norms": {"ce": 1.0, "kd": 3.0}}))
        [('losses', 'loss', 2.0), ('gradient shares', 'ce', 0.25), ('gradient shares', 'kd', 0.75)]
    """
    for key, value in line.items():
        if key == "lr":
            yield "rate", "learning rate", value
        elif key == "gradient_norm":
            yield "rate", "norm of the gradient", value
        elif key == "gradient_norms" and isinstance(value, Mapping):
            norms = norms_by_term(value)
            total = sum(norms.values())
            yield from (("gradient shares", term, norm / total) for term, norm in norms.items() if total > 0)
        elif key in ("weights", "validation", "diagnostics") and isinstance(value, Mapping):
            yield from ((key, name, inner) for name, inner in value.items())
        elif key not in _PLACE and not isinstance(value, Mapping):
            yield "losses", key, value


def _thinned(points: list[list[float]]) -> list[list[float]]:
    """Return at most about 400 of the points, the last one among them."""
    stride = max(1, -(-len(points) // _POINTS))
    return points[::-1][::stride][::-1]
