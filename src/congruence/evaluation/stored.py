"""Numbers as they are stored: in a run's test.json, a plan's cells and results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from congruence.core.files import damaged, read_json
from congruence.core.kinds import Kind
from congruence.evaluation.number import Number, Place, Value
from congruence.evaluation.numbers import ROWS, numbers_in
from congruence.evaluation.published import published

_COLUMNS: Kind = {"*": {"*": (float,)}}


def described(place: Place, stored: Iterable[str]) -> tuple[Number, ...]:
    """Return how to show stored numbers: the rows of a place, those of protocols, then plain ones for other names."""
    rows = numbers_in(place)
    others = [name for name in dict.fromkeys(stored) if name not in rows]
    return (*rows.values(), *(published(name) or Number(name, None, shown=(place,)) for name in others))


def lacking(stored: Iterable[str], numbers: Iterable[Number]) -> bool:
    """Whether a number of a package, of the user's own or of a protocol is not among the stored ones.

    The library's other ones are left as they are: what an older version has finished stays finished.
    """
    names = {name.partition(".")[0] for name in stored}
    return any(number.key not in names for number in numbers if number not in ROWS)


def test_numbers(path: Path) -> dict[str, dict[str, Value]]:
    """Read a run's test.json: the numbers of the best and the last weights, and of the teachers, by column.

    Raises:
        ValueError: if it is damaged: both weights are measured by the same numbers, beside the same teachers.
    """
    columns: dict[str, dict[str, Value]] = read_json(path, _COLUMNS)
    best = {name.removeprefix("best"): set(values) for name, values in columns.items() if name.startswith("best")}
    last = {name.removeprefix("last"): set(values) for name, values in columns.items() if name.startswith("last")}
    if columns and (not best or best != last):
        raise damaged(path, "its columns 'best' and 'last' do not hold the same numbers")
    return columns
