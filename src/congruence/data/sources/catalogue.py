"""All named datasets: the library's rows, and those that packages add by entry points of `congruence.datasets`.

`sources` is the whole table and `source` one row of it; the library's rows are in `table`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from congruence.core.check import near
from congruence.core.plugins import contributed
from congruence.data.sources import table
from congruence.data.sources.table import IMAGE_FOLDER, Source, by_name

GROUP = "congruence.datasets"


def sources() -> Mapping[str, Source]:
    """Return all rows by name, the library's own first.

    Raises:
        ValueError: if a package's row has a name that is taken, or its entry point names something else.

    Example:
        >>> next(iter(sources()))
        'digits'
    """
    return by_name((*table.SOURCES.values(), *_contributed()))


@functools.cache
def _contributed() -> tuple[Source, ...]:
    """Read the entry points once, when the table is first used."""
    return tuple(contributed(GROUP, Source, "Source"))


def source(name: str) -> Source:
    """Return the row of this name.


    Raises:
        ValueError: with similar names first and then all names, if there is none.
    """
    rows = sources()
    if name not in rows:
        names = (*rows, IMAGE_FOLDER)
        raise ValueError(
            f"There is no dataset named {name!r}, nor a folder there.{near(name, names)} "
            f"The names are {', '.join(names)}."
        )
    return rows[name]


_EMBEDDED = {"digits": "scikit-learn"}  # our rows whose data comes with another package


def inside(row: Source) -> str:
    """Return the package that provides the images of a row without files."""
    return _EMBEDDED.get(row.name) or row.read.__module__.partition(".")[0]
