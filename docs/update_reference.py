"""Write the pages of docs/ that are made from the code: `python docs/update_reference.py`."""

from __future__ import annotations

from collections.abc import Callable

import reference_api
import reference_commands
import reference_config
import reference_findings
import reference_methods
import reference_models
import reference_papers
from generated import ROOT

DOCS = ROOT / "docs"
MARK = "<!-- Written by docs/update_reference.py: change what it reads, not this page. -->"
PAGES: dict[str, Callable[[], str]] = {
    "reference/methods.md": reference_methods.page,
    "reference/models.md": reference_models.page,
    "reference/config.md": reference_config.page,
    "reference/command-line.md": reference_commands.page,
    "reference/api/losses.md": reference_api.losses,
    "reference/api/metrics.md": reference_api.metrics,
    "findings.md": reference_findings.page,
}


def written() -> dict[str, str]:
    """Return each page that is made from the code, by its path in docs/, as it should be now."""
    whole = {name: _marked(page()) for name, page in PAGES.items()}
    return {**whole, **{name: reference_papers.filled(DOCS / name) for name in papers()}}


def papers() -> list[str]:
    """Return the pages of papers, which have parts that are made from the code."""
    return sorted(f"papers/{path.name}" for path in (DOCS / "papers").glob("*.md"))


def _marked(page: str) -> str:
    heading, text = page.rstrip().split("\n", 1)  # a title is looked for in a page's first line
    return f"{heading}\n\n{MARK}\n{text}\n"


if __name__ == "__main__":
    for name, text in written().items():
        path = DOCS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf8")
