"""Converts the terms described in files of older versions to today's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from congruence.methods import catalogue
from congruence.methods.rows import current_parts, current_words


def current_descriptions(terms: Any) -> Any:
    """Return what `Term.describe` would give today for terms that an older version described in a file.

    Other values are returned unchanged.
    """
    if not isinstance(terms, list):
        return terms
    return [_current(term) if isinstance(term, Mapping) else term for term in terms]


def _current(description: Mapping[str, Any]) -> dict[str, Any]:
    unsaid = dict.fromkeys(("share", "teacher", "layout", "mask", "pool"))
    values, rows = {**unsaid, **description}, catalogue.keys()
    if "weight" in values and values.get("method") in rows:
        row = catalogue.row(values["method"])
        values["weight"] = current_parts(row, values["weight"])
        if row.older and "words" not in values:
            values |= {"hyperparameters": current_words(row, values.get("hyperparameters", {})), "words": "of today"}
    return values
