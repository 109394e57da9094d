"""Values, texts and lists of names shortened for a sentence: cut in the middle, or after the first few."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

_SHOWN = 80  # characters of a text that are kept
_LONGEST = 140  # entries shown of a container, or of a list of names


def brief(value: Any) -> str:
    """Return the `repr` of a value, cut in the middle if it is long.

    Example:
        >>> brief("a" * 100_000) == repr("a" * 38 + "..." + "a" * 39), len(brief([[1] * 99] * 99)) <= 140
        (True, True)
        >>> brief(10**9999)
        'a number of more than 4,300 digits'
    """
    writer = reprlib.Repr()
    writer.maxstring = writer.maxother = writer.maxlong = _SHOWN + 2
    writer.maxdict = writer.maxlist = writer.maxtuple = 8
    try:
        return cut(writer.repr(value), _LONGEST)
    except ValueError:  # Python refuses to write longer integers
        return "a number of more than 4,300 digits"
    except RecursionError:
        return "tables or lists that are nested too deeply"


def cut(text: str, most: int = _SHOWN) -> str:
    """Return a text, cut in the middle if it is too long for a sentence.

    Example:
        >>> cut("a" * 50 + "b" * 50, 9)
        'aaa...bbb'
    """
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"


def listed(names: Sequence[str]) -> str:
    """Return names joined by commas; of many, only the first few and the total count.

    Example:
        >>> listed(["a", "b"]), listed([f"method{number}" for number in range(40)])[-25:]
        ('a, b', 'method14, ... (40 in all)')
    """
    shown = list(names)
    while len(", ".join(shown)) > _LONGEST:
        shown.pop()
    more = [] if len(shown) == len(names) else [f"... ({len(names)} in all)"]
    return ", ".join([*shown, *more])
