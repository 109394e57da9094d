"""Numbers as they are stored: in a run's test.json, a plan's cells and results."""

from __future__ import annotations

from collections.abc import Iterable

from congruence.evaluation.number import Number, Place
from congruence.evaluation.numbers import ROWS, numbers_in
from congruence.evaluation.published import published


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
