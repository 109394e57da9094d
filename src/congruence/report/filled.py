"""Parts that pages of several kinds have: points of cost and quality, curves, and students beside their teachers."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from congruence.bench.front import front
from congruence.bench.table import COSTS, mean_sd
from congruence.core.check import sentence
from congruence.report import rebuilt
from congruence.report.as_html import Page
from congruence.report.curves import Curves, curves
from congruence.report.flat import Layouts
from congruence.report.rebuilt import VIEWS, Models

LOG = logging.getLogger("congruence")
Row = Mapping[str, Any]
T = TypeVar("T")


def tried(read: Callable[[], T], page: Page, part: str, otherwise: T) -> T:
    """Return what is read, or, where it is damaged, `otherwise`, and say so on the page."""
    try:
        return read()
    except (ValueError, OSError) as error:
        page.left.setdefault(part, []).append(sentence(error))
        return otherwise


def cost_of(
    students: Sequence[Row], teachers: Sequence[Row], value: str, value_title: str, cost: str, cost_title: str
) -> dict[str, Any]:
    """Return points of quality (in per cent) against cost: means over the rows of one method and variant."""
    on_front = front(students, value=value, cost=cost)
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in students:
        groups.setdefault((row["method"], row.get("variant", "")), []).append(row)
    named = {(str(row.get("method") or row.get("name") or "teacher"), ""): [row] for row in teachers}
    points = []
    for kind, rows_by_name in (("student", groups), ("teacher", named)):
        for name, rows in rows_by_name.items():
            there = [row for row in rows if row.get(value) is not None and _cost(row, cost) is not None]
            if there:
                y, sd = mean_sd([100 * row[value] for row in there])
                x = mean_sd([_cost(row, cost) for row in there])[0]
                best = kind == "student" and name in on_front
                label = ", ".join(filter(None, name))
                points.append({"name": label, "x": x, "y": y, "sd": sd, "kind": kind, "front": best})
    return {"x": cost_title, "y": value_title, "points": points}


def _cost(row: Row, key: str) -> Any:
    """Return a cost of a row, or of a plan's row, which has it in a table, in the unit that it is shown in."""
    inner = (row.get("cost") or {}).get(key)
    return row.get(key) if inner is None or key in row else inner / COSTS[key][1]


def add_curves(page: Page, folders: Mapping[str, Path]) -> None:
    """Add the curves of runs by name."""
    for name, folder in folders.items():
        none: Curves = {}
        found = tried(functools.partial(curves, folder), page, "curves", none)
        if found:
            page.curves[name] = found
    if not page.curves:
        page.left.setdefault("curves", []).append("The folders have no metrics.jsonl: there are no curves.")


def add_views(page: Page, folders: Mapping[str, Path], *, trust: bool) -> None:
    """Build models again, and add what the page draws of them; what fails is a sentence."""
    layouts = Layouts()
    for name, folder in list(folders.items())[:VIEWS]:
        try:
            draw(page, rebuilt.of_run(folder, name, trust=trust), layouts)
        except Exception as error:  # a user's own model or data may fail in any way: the rest of the page stands
            LOG.debug("No embeddings of '%s'.", folder, exc_info=True)
            LOG.warning("The page does not show the models of '%s': %s", folder, sentence(error))
            page.left.setdefault("maps", []).append(f"{name} is not shown: {sentence(error)}")
    if len(folders) > VIEWS:
        page.left.setdefault("maps", []).append(f"Of {len(folders)} runs the first {VIEWS} are shown here.")


def draw(page: Page, models: Models, layouts: Layouts) -> None:
    """Add students beside their teacher; samples that the page has already are not added again."""
    samples, views = rebuilt.views(models, layouts)
    if samples not in page.samples:
        page.samples.append(samples)
    number = page.samples.index(samples)
    for view in views:
        page.left.setdefault("maps", []).extend(f"{view['student']}: {why}." for why in view.pop("left"))
        page.views.append({**view, "samples": number})
    if len(models.students) > VIEWS:
        page.left.setdefault("maps", []).append(f"Of {len(models.students)} students the first {VIEWS} are shown here.")
