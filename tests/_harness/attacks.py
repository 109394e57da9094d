"""What attacks on files and configurations have in common: how many there are, and what counts as held."""

from __future__ import annotations

import contextlib
import copy
import os
import time

LONG = "CONGRUENCE_ATTACK"  # in the environment: as many attacks as docs/reliability.md counts
OTHERS = (None, True, 7, -1.5, "x", [], {}, [1], {"a": 1})  # by which a value is replaced


def scale():
    """How many times the attacks of `make test` are made: 1, and 50 of `make attack`."""
    return 50 if os.environ.get(LONG) else 1


def places(value, path=()):
    """Yield the path of every key and item in nested tables and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def changed(value, path, other=...):
    """Return a copy in which a place is gone, or holds something else."""
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if other is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = other
    return value


@contextlib.contextmanager
def one_sentence(names="", *, seconds=20.0, longest=None):
    """Let pass what ends well or in one printable sentence of ours, which names a file; anything else is raised.

    Yields a list, to which the sentence is added.
    """
    told, began = [], time.monotonic()
    try:
        yield told
    except (ValueError, OSError) as error:
        text = str(error)
        told.append(text)
        plain = type(error) in (ValueError, OSError) or type(error).__module__.startswith("congruence.")
        if not plain or not text or names not in text or not text.replace("\n", "").isprintable():
            raise AssertionError(f"not a sentence of ours: {type(error).__name__}: {text!r}") from error
        lines = text.split("\n")
        if longest is not None and any(len(line) > longest for line in lines):
            raise AssertionError(f"{max(map(len, lines))} characters: {text[:500]!r}") from error
        if len(lines) > 1 and type(error).__name__ != "ConfigError" and ".toml: " not in lines[0]:
            raise AssertionError(f"several lines: {text!r}") from error
    assert time.monotonic() - began < seconds
