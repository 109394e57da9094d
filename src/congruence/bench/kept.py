"""`Shelf`: the lines that `results/NAME/` keeps of a plan, and which of them are what the plan asks for today."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from congruence.bench.failed import whole
from congruence.bench.identity import NOT_TOLD, Made, differs
from congruence.bench.written import NUMBERS, ROW, TRIAL
from congruence.core.files import read_json, read_lines
from congruence.training.saving.migrate import migrate_numbers

RESULTS, TUNING, TEACHERS = "results.jsonl", "tuning.jsonl", "teachers.jsonl"
SAME = "same_code.json"
Line = dict[str, Any]
_NAMED = ("method", "variant", "seed", "factor", "candidate", "rung")


def is_trial(line: Mapping[str, Any]) -> bool:
    """Whether a line is of a trial: of its accuracy on validation alone."""
    return "accuracy" in line


def name_of(line: Mapping[str, Any], *, trial: bool) -> tuple[Any, ...]:
    """Return what tells a line from the others of its file; a cell has its factor found, a trial is one of many."""
    return tuple(line.get(key) for key in (_NAMED if trial else _NAMED[:3]))


class Shelf:
    """The kept lines of a plan.

    Args:
        folder: `results/NAME`, or None for nothing.
        afresh: whether to hold no lines: only which code is the same.

    Attributes:
        same: records of hashes of code of methods as they were, by those of later code that `docs/same_code.py` has
            seen train the plan's rows to the same bits: one for each time that it was asked.
        why: in a word, for each line that was looked for and is not what is wanted.
    """

    def __init__(self, folder: Path | None, *, afresh: bool = False) -> None:
        self.folder = folder
        self.lines = {
            name: []
            if folder is None or afresh
            else [migrate_numbers(line) for line in whole(read_lines(folder / name, kind))]
            for name, kind in ((RESULTS, ROW), (TUNING, TRIAL), (TEACHERS, NUMBERS))
        }
        self.same = () if folder is None else _same(folder / SAME)
        self._by_name = {
            file: {name_of(line, trial=file == TUNING): line for line in lines} for file, lines in self.lines.items()
        }
        self.why: dict[tuple[Any, ...], str] = {}

    def find(self, file: str, asked: Mapping[str, Any], made: Made | None) -> Line | None:
        """Return the kept line of a cell or a trial, where all that decides its numbers is the same.

        Args:
            file: RESULTS or TUNING.
            asked: of `name_of`.
            made: what decides its numbers today; None if that cannot be told.
        """
        name = name_of(asked, trial=file == TUNING)
        line = self._by_name[file].get(name)
        if line is None:
            return None
        recorded = isinstance(line.get("made"), Mapping)
        why = NOT_TOLD if made is None and recorded else differs(line, made or Made())
        if why:
            self.why[(file, *name)] = why
            return None
        self.why.pop((file, *name), None)
        return line

    def teacher(self, made: Made | None) -> Line | None:
        """Return the kept line of a teacher, whichever weights it came out with."""
        found = (line for line in self.lines[TEACHERS] if made is not None and not differs(line, made))
        return next(found, None)


def _same(path: Path) -> tuple[dict[str, str], ...]:
    kind = {"*": {"as": str, "commit": str, "*": object}}
    records: dict[str, dict[str, str]] = {}
    for code, told in read_json(path, kind).items() if path.is_file() else ():
        records.setdefault(told["commit"], {})[code] = told["as"]
    return tuple(records.values())
