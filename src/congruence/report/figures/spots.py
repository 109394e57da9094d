"""Rows of plans as what a figure shows: the values of the seeds by setting, and settings that are numbers."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Row = Mapping[str, Any]
Groups = dict[str, list["Spot"]]


class Spot(NamedTuple):
    """The values of one setting, one a seed, and their plan; `at` is the setting as a number, where it is one."""

    label: str
    values: tuple[float, ...]
    plan: str = ""
    at: float = 0.0

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float:
        """The standard deviation over the seeds (n − 1), 0 of one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


def spots(rows: Iterable[Row], names: Mapping[str, str], number: str, *, scale: float = 1.0) -> Groups:
    """Return by group a spot for each named setting that rows have, in the order of the names.

    A row's setting is its variant where that is among the names, else its method. The other word, and the plan where
    there are several, say its group, so that rows which differ in more than the setting are never averaged.

    Args:
        rows: of plans.
        names: what each setting is called in the figure.
        number: the rows' key; rows without it are left out.
        scale: by which values are multiplied.

    Example:
        >>> rows = [{"method": "kda", "variant": "random", "seed": seed, "gpcl": 0.5 + seed} for seed in (0, 1)]
        >>> spots(rows, {"centres": "class centres", "random": "random samples"}, "gpcl")
        {'kda': [Spot(label='random samples', values=(0.5, 1.5), plan='', at=0.0)]}
    """
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        method, variant = row["method"], row.get("variant") or ""
        setting, other = (variant, method) if variant in names else (method, variant)
        value = row.get(number)
        if setting in names and isinstance(value, int | float) and math.isfinite(value):
            group = found.setdefault((row.get("plan") or "", other), {})
            group.setdefault(setting, []).append(scale * float(value))
    many = len({plan for plan, _ in found}) > 1
    return {
        ", ".join(part for part in (plan if many else "", other) if part): [
            Spot(names[name], tuple(values[name]), plan) for name in names if name in values
        ]
        for (plan, other), values in found.items()
    }


def several(groups: Groups, least: int = 2) -> Groups:
    """Return the groups that have so many settings or more, without their plan's name where all are of one plan.

    Example:
        >>> several({"p, kda": [Spot("a", (1.0,), "p"), Spot("b", (2.0,), "p")], "q, ce": [Spot("a", (3.0,), "q")]})
        {'kda': [Spot(label='a', values=(1.0,), plan='p', at=0.0), Spot(label='b', values=(2.0,), plan='p', at=0.0)]}
    """
    left = {group: found for group, found in groups.items() if len(found) >= least}
    plans = {spot.plan for found in left.values() for spot in found}
    prefix = f"{next(iter(plans))}, " if len(plans) == 1 else ""
    return {group.removeprefix(prefix): found for group, found in left.items()}


def numbered(prefix: str, name: str) -> float | None:
    """Return the number that a setting's name says after a prefix, None where it says none.

    Example:
        >>> numbered("lambda", "lambda_0_03"), numbered("batch", "batch16"), numbered("tau", "tau_5")
        (0.03, 16.0, 5.0)
        >>> numbered("lambda", "no_contrast") is None
        True
    """
    found = re.fullmatch(rf"{re.escape(prefix)}_?(\d+)(?:_(\d+))?", name)
    return None if found is None else float(f"{found[1]}.{found[2] or 0}")


def swept(
    rows: Iterable[Row],
    prefix: str,
    number: str,
    *,
    scale: float = 1.0,
    also: Mapping[str, float] | None = None,
    least: int = 2,
) -> Groups:
    """Return by group the spots of settings that a prefix and a number name, as `spots`, the smallest number first.

    Args:
        rows: of plans.
        prefix: of the settings' names.
        number: the rows' key.
        scale: by which values are multiplied.
        also: settings whose names say no number, and the number that they have.
        least: groups of fewer settings are left out.

    Example:
        >>> rows = [{"method": "pc", "variant": f"batch{size}", "seed": 0, "gpcl": size / 100} for size in (16, 4)]
        >>> [(spot.at, spot.mean) for spot in swept(rows, "batch", "gpcl")["pc"]]
        [(4.0, 0.04), (16.0, 0.16)]
    """
    rows, also = list(rows), also or {}
    words = {word for row in rows for word in (row["method"], row.get("variant") or "")}
    at = {word: value for word in words if (value := also.get(word, numbered(prefix, word))) is not None}
    names = {word: word for word in sorted(at, key=lambda word: at[word])}
    found = spots(rows, names, number, scale=scale)
    return {
        group: [spot._replace(label=f"{at[spot.label]:g}", at=at[spot.label]) for spot in each]
        for group, each in several(found, least).items()
    }
