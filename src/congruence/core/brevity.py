"""Values, texts and lists of names as a sentence bears them: cut in the middle, or after the first few."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

_SHOWN = 80  # characters of a text
_LONGEST = 140  # of a value made of several, or of a list of names


def brief(value: Any) -> str:
    """Write a value as Python does, cut in the middle where it is long.

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
    except ValueError:  # Python writes no longer ones
        return "a number of more than 4,300 digits"
    except RecursionError:
        return "tables or lists that are nested too deeply"


def cut(text: str, most: int = _SHOWN) -> str:
    """Return a text, cut in the middle where it is longer than a sentence bears.

    Example:
        >>> cut("a" * 50 + "b" * 50, 9)
        'aaa...bbb'
    """
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"


def listed(names: Sequence[str]) -> str:
    """Return names as a list, of many the first few and how many there are.

    Example:
        >>> listed(["a", "b"]), listed([f"method{number}" for number in range(40)])[-25:]
        ('a, b', 'method14, ... (40 in all)')
    """
    shown = list(names)
    while len(", ".join(shown)) > _LONGEST:
        shown.pop()
    more = [] if len(shown) == len(names) else [f"... ({len(names)} in all)"]
    return ", ".join([*shown, *more])
