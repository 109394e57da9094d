"""`Published`: a paper's numbers for the rows of a plan, shown next to the measured ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from congruence.core import check
from congruence.evaluation.numbers import numbers_in
from congruence.evaluation.published import published

TEACHER_ROW = "teacher"
AVERAGE = "average"  # the variant of means over all others
_KEYS = ("source", "differs", "same_data", "number", "rows")
_NUMBER = "accuracy_best"
_HELD_OUT = (
    "The training set differs too: a part of the training images is held out here, and chooses the best epoch; "
    "--set data.validation=0 trains on all of them."
)
_ALL = (
    "No image is held out: the last epoch is measured. Whoever chooses an epoch, a weight or a row by these numbers "
    "chooses on the test images."
)


@dataclass(frozen=True)
class Published:
    """A plan's table `[published]`.

    Args:
        source: paper and table.
        rows: by the name of a method, or "METHOD-VARIANT" (of a teacher "teacher", or "teacher, METHOD-VARIANT"), the
            paper's numbers by key, in the units of the table (such as per cent).
        differs: how the paper's setting differs, "" if it does not.
        same_data: whether the plan trains on the paper's data, so that what is held out of it is a difference.
    """

    source: str
    rows: Mapping[str, Mapping[str, str]]
    differs: str = ""
    same_data: bool = False

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Published:
        """Return what a table without problems says."""
        number = raw.get("number", _NUMBER)
        rows = {name: value if isinstance(value, dict) else {number: value} for name, value in raw["rows"].items()}
        texts = {name: {key: str(value) for key, value in numbers.items()} for name, numbers in rows.items()}
        return cls(raw["source"], texts, raw.get("differs", ""), raw.get("same_data", False))

    def beside(self, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return rows of results, or of teachers, each with what is published of it under "published"."""
        return [{**row, "published": self._of(row)} for row in rows]

    def _of(self, row: Mapping[str, Any]) -> Mapping[str, str]:
        method, variant = row.get("method", row.get("name", TEACHER_ROW)), row.get("variant", "")
        return {**self.rows.get(method, {}), **self.rows.get(f"{method}-{variant}", {})}

    def told(self, held_out: bool | None = None) -> str:
        """Return the sentences below the table.

        Args:
            held_out: whether a part of the training images chooses the best epoch here (papers train on all); None if
                that is not to be told.
        """
        other = f" Its setting differs: {self.differs.rstrip('.')}." if self.differs else ""
        of_set = "" if held_out is None or not self.same_data else f" {_HELD_OUT if held_out else _ALL}"
        return f"Published: {self.source.rstrip('.')}.{other}{of_set}"


def problems(raw: Mapping[str, Any], rows: Collection[str]) -> list[str]:
    """Return a line for each thing that is wrong with a table `[published]`.

    Args:
        raw: the table.
        rows: the names that its rows can have.
    """
    rows = [*rows, *(f"{TEACHER_ROW}, {name}" for name in rows)]
    found = [f"published.{key}: unknown key.{check.near(key, _KEYS)}" for key in raw if key not in _KEYS]
    for key in ("source", "differs"):
        if not isinstance(raw.get(key, "" if key == "differs" else None), str) or raw.get(key) == "":
            found.append(f"published.{key}: expected a sentence, got {raw.get(key)!r}.")
    if not isinstance(raw.get("same_data", False), bool):
        found.append(f"published.same_data: expected true or false, got {raw['same_data']!r}.")
    given = raw.get("rows")
    if not isinstance(given, dict) or not given:
        return [*found, "published.rows: expected for each row a number, or numbers by their keys."]
    named = [*rows, TEACHER_ROW]
    found += [f"published.rows.{name}: unknown row.{check.near(name, named)}" for name in given if name not in named]
    default = raw.get("number", _NUMBER)
    for name, value in given.items():
        for key, one in (value if isinstance(value, dict) else {default: value}).items():
            if not isinstance(key, str) or (key not in numbers_in("plan") and published(key) is None):
                found.append(f"published: a plan has no number '{key}'.{check.near(str(key), numbers_in('plan'))}")
            if isinstance(one, bool) or not isinstance(one, int | float | str):
                found.append(f"published.rows.{name}: expected a number or a text, got {one!r}.")
    return list(dict.fromkeys(found))
