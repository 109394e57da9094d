"""Texts in one file: one text in each line, or with labels as tab-separated values or JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from congruence.core import check
from congruence.core.files import absent, damaged
from congruence.data.sources.store import Lines, Texts

SUFFIXES = (".txt", ".tsv", ".jsonl")
_TEXT, _LABEL = "text", "label"


def is_texts(path: str | Path) -> bool:
    """Whether a path has the suffix of a file of texts.

    Example:
        >>> is_texts("reviews.tsv"), is_texts("photos")
        (True, False)
    """
    return Path(path).suffix in SUFFIXES


def read_texts(path: Path) -> Lines:
    """Read a file of texts.

    Each line of a `.txt` file is a text; empty lines are skipped. A `.tsv` file has a first line of column names,
    "text" and optionally "label"; a `.jsonl` file has one object with these keys in each line. Labels are whole numbers
    from 0 on, or names, which are numbered in sorted order; a missing label is -1 or empty.

    Raises:
        ValueError: with the line, for a file that is absent, not UTF-8, or has other content.
    """
    rows = {".txt": _plain, ".tsv": _separated, ".jsonl": _objects}[path.suffix]
    texts: list[str] = []
    labels: list[Any] = []
    try:
        with path.open(encoding="utf8", newline="") as file:
            for text, label in rows(file, path):
                texts.append(text)
                labels.append(label)
    except FileNotFoundError:
        raise absent(path) from None
    except UnicodeDecodeError:
        raise damaged(path, "it is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"The file '{path}' cannot be read: {error.strerror or error}.") from None
    if not texts:
        raise ValueError(f"The file '{path}' holds no text.")
    numbers, names = _numbered(labels, path)
    return Lines(Texts(tuple(texts), numbers), class_names=names)


def _plain(file: Any, path: Path) -> Iterator[tuple[str, Any]]:
    for line in file:
        if line.strip():
            yield line.rstrip("\r\n"), None


def _separated(file: Any, path: Path) -> Iterator[tuple[str, Any]]:
    reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    header = next(reader, [])
    if _TEXT not in header:
        named = ", ".join(map(repr, header[:4])) or "nothing"
        raise ValueError(
            f"The file '{path}' must have a first line of column names with '{_TEXT}' (and '{_LABEL}'), got {named}."
        )
    for row in reader:
        if not row:
            continue
        if len(row) != len(header):
            raise ValueError(
                f"The file '{path}', line {reader.line_num}: expected {len(header)} columns, got {len(row)}."
            )
        values = dict(zip(header, row, strict=True))
        yield values[_TEXT], values.get(_LABEL)


def _objects(file: Any, path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        where = f"The file '{path}', line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            raise ValueError(f"{where}: it is not JSON.") from None
        text = row.get(_TEXT) if isinstance(row, dict) else None
        if not isinstance(text, str):
            raise ValueError(f'{where}: expected an object with "{_TEXT}" (and "{_LABEL}"), got {line.strip()[:60]}.')
        label = row.get(_LABEL)
        if not (label is None or isinstance(label, str | int)) or isinstance(label, bool):
            raise ValueError(f"{where}: expected a whole number or a name as the label, got {label!r}.")
        yield text, label


def _numbered(labels: list[Any], path: Path) -> tuple[np.ndarray[Any, np.dtype[np.int64]] | None, tuple[str, ...]]:
    """Return the labels as numbers, and the class names; None if no text has a label."""
    words = ["" if label is None else str(label).strip() for label in labels]
    known = sorted({word for word in words if word not in ("", "-1")})
    if not known:
        return None, ()
    if all(word.isascii() and word.isdigit() for word in known):
        numbers = {word: int(word) for word in known}
        top = max(numbers.values())
        if top >= len(labels):
            check.fail("load", "labels", f"numbers from 0 on, below the {len(labels)} texts of '{path}'", top)
        names = tuple(map(str, range(top + 1)))
    else:
        numbers, names = {word: number for number, word in enumerate(known)}, tuple(known)
    return np.array([numbers.get(word, -1) for word in words], dtype=np.int64), names
