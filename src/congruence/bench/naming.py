"""The names of a plan's rows and their folders, and which names are invalid."""

from __future__ import annotations

from collections.abc import Iterable

from congruence.core import names
from congruence.core.brevity import brief

PLAIN = ""  # the variant of a plan that has none


def row_name(method: str, variant: str) -> str:
    """Return what a row of a plan is called: its method and, where there are several, its variant."""
    return f"{method}-{variant}" if variant else method


def cell_name(method: str, variant: str, seed: int) -> str:
    """Return what a cell's folder is called.

    Example:
        >>> cell_name("kd", "few", 3), cell_name("kd", "", 3)
        ('kd-few-seed3', 'kd-seed3')
    """
    return f"{row_name(method, variant)}-seed{seed}"


def misnamed(name: str, methods: Iterable[str], variants: Iterable[str]) -> list[str]:
    """Return a line for each name of a plan that cannot be a folder, and for two rows that would share one.

    Example:
        >>> misnamed("tiny", ["a", "a-b"], ["b", "b-b"])
        ["methods: expected rows in folders of their own, got 'a-b-b' of 'a-b' in 'b' and of 'a' in 'b-b'."]
    """
    methods, variants = list(methods), list(variants)
    lines = [f"name: expected a folder's name {wrong}, got {brief(name)}." if (wrong := names.wrong(name)) else ""]
    for key, named in (("methods", methods), ("variants", [each for each in variants if each != PLAIN])):
        lines += [
            f"{key}: expected names {wrong}, got {brief(each)}." for each in named if (wrong := names.wrong(each))
        ]
    rows = [(row_name(method, variant), f"'{method}' in '{variant}'") for variant in variants for method in methods]
    same = names.twice(row for row, _ in rows)
    if same is not None and not any(lines):
        first = next(told for row, told in rows if row == same[0])
        second = [told for row, told in rows if row == same[1]][-1]
        which = f"'{same[0]}'" if same[0] == same[1] else f"'{same[0]}' and '{same[1]}'"
        lines.append(f"methods: expected rows in folders of their own, got {which} of {first} and of {second}.")
    return [line for line in lines if line]
