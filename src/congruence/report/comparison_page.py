"""The page of a comparison: its numbers, and the students beside the teacher where the models are at hand."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from congruence.core.check import sentence
from congruence.evaluation.comparison import COSTS
from congruence.report import provenance
from congruence.report.as_html import Page, write
from congruence.report.filled import Row, cost_of, draw
from congruence.report.flat import Layouts
from congruence.report.rebuilt import Models
from congruence.report.results_table import of_comparison

LOG = logging.getLogger("congruence")


def write_comparison(
    found: Mapping[str, Any],
    out: Path,
    *,
    models: Models | None = None,
    commands: Sequence[str] = (),
) -> Path:
    """Write the page of a comparison.

    Args:
        found: of `Comparisons.to_dict`, or what `congruence compare --json` printed.
        out: the file.
        models: the models; without them the page has the numbers alone.
        commands: that made the comparison and the page.
    """
    students = found["students"]
    page = Page("congruence: " + ", ".join(students), versions=provenance.versions(), commands=list(commands))
    samples = next(iter(students.values())).get("samples")
    if samples is not None:
        page.told.append(f"Students beside one teacher, on the same {samples:,} samples.")
    page.tables.append(of_comparison(found))
    rows = [{**_own(values), "method": name} for name, values in students.items()]
    teacher = [{**found["teacher"], "method": "teacher"}]
    for key, title, _, _ in reversed(COSTS):
        made = cost_of(rows, teacher, "accuracy", "accuracy (%)", key, title)
        if any(point["kind"] == "student" for point in made["points"]):
            page.costs.append(made)
    if models is None:
        page.left["maps"] = ["A comparison's file has no embeddings: congruence compare draws them as it compares."]
    else:
        try:
            draw(page, models, Layouts())
        except Exception as error:  # see `filled.add_views`
            LOG.debug("No embeddings.", exc_info=True)
            page.left["maps"] = [sentence(error)]
    return write(page, out)


def _own(values: Row) -> dict[str, Any]:
    return {key.removeprefix("student_"): value for key, value in values.items()}
