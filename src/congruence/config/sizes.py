"""What no configuration or plan can mean: numbers, texts and tables beyond all bounds, each told shortly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from congruence.core.brevity import brief

DEEPEST = 20  # tables and lists in each other
LONGEST = 4096  # characters of a text, as of a path
LARGEST = 2**63 - 1


def problems(values: Any) -> list[tuple[str, str]]:
    """Return (dotted key, sentence) pairs of what is too large; a table is named by its keys, cut where they are long.

    Example:
        >>> problems({"data": {"name": "digits", "size": 10**30}})
        [('data.size', 'expected a number of at most 19 digits, got 1000000000000000000000000000000.')]
    """
    return list(_walk(values, ()))


def _walk(value: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    where = ".".join(keys)
    if len(keys) > DEEPEST:
        yield ".".join(keys[:3]), f"expected tables and lists at most {DEEPEST} deep in each other."
    elif isinstance(value, dict):
        for key, item in value.items():
            name = str(key)
            wrong = _text(name)
            if wrong:
                yield where, f"expected keys {wrong}."
            else:
                yield from _walk(item, (*keys, name))
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from _walk(item, (*keys, str(position)))
    elif isinstance(value, str):
        if wrong := _text(value):
            yield where, f"expected text {wrong}."
    elif isinstance(value, int) and abs(value) > LARGEST:
        yield where, f"expected a number of at most 19 digits, got {brief(value)}."


def _text(text: str) -> str:
    """Say what is wrong with a text or a key."""
    if len(text) > LONGEST:
        return f"of at most {LONGEST:,} characters, got {len(text):,}"
    return f"without a NUL character, got {brief(text)}" if "\0" in text else ""
