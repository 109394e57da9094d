"""`status`: a plan's progress, read from its folder only; it loads no data and changes nothing, so it can run any time.

A cell is running if the process named in `cell.RUNNING` is alive; for processes on other machines this is unknown, and
they count as running.
"""

from __future__ import annotations

import os
import socket
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from congruence.bench.cell import FAILURE, RESULT, RUNNING
from congruence.bench.naming import cell_name
from congruence.bench.plan import Plan

DONE, AT_WORK, FAILED, PENDING = STATES = ("done", "running", "failed", "pending")


def state_of(folder: Path) -> str:
    """Return the state of a cell: done, running, failed or pending."""
    if _at_work(folder / RUNNING):
        return AT_WORK
    if (folder / RESULT).exists():
        return DONE
    return FAILED if (folder / FAILURE).exists() else PENDING


def status(plan: Plan, out: Path) -> list[list[str]]:
    """Return a table, heading first:

    the number of cells in each state, for each row of a plan and in total. Results kept in `results/` count as pending
    until a run has reused them.

    Example:
        >>> from congruence.bench.planfile import load_plan
        >>> status(load_plan("demo"), Path("no such folder"))[-1]
        ['all', '', '0', '0', '0', '15']
    """
    counts = {
        (variant, method): Counter(
            state_of(out / "cells" / cell_name(method, variant, seed)) for seed in plan.seeds_in(variant)
        )
        for variant in plan.variants
        for method in plan.recipes
    }
    lines = [["", "variant", *STATES]]
    for (variant, method), count in counts.items():
        lines.append([method, variant, *_numbers(count)])
    return [*lines, ["all", "", *_numbers(sum(counts.values(), Counter()))]]


def begun(out: Path) -> str:
    """Say how many teachers and trials of a search there are; "" if a plan has begun none of them.

    Example:
        >>> begun(Path("no such folder"))
        ''
    """
    told = []
    teachers = Counter(
        DONE if (folder / "teacher.json").exists() else FAILED if (folder / FAILURE).exists() else "begun"
        for folder in _folders(out / "teachers")
    )
    for kind, count in (("Teachers", teachers), ("Trials", Counter(map(state_of, _folders(out / "trials"))))):
        if count:
            told.append(f"{kind}: {', '.join(f'{number} {state}' for state, number in sorted(count.items()))}.")
    return " ".join(told)


def _numbers(count: Counter[str]) -> Iterable[str]:
    return (str(count[state]) for state in STATES)


def _folders(path: Path) -> list[Path]:
    return [folder for folder in path.iterdir() if folder.is_dir()] if path.is_dir() else []


def _at_work(mark: Path) -> bool:
    try:
        host, number = mark.read_text(encoding="utf8").split()
        process = int(number)
    except (OSError, ValueError):  # absent, or just being written
        return False
    if host != socket.gethostname() or sys.platform == "win32":  # there os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives, and is another user's
        pass
    return True
