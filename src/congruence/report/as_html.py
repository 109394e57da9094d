"""A page's content as one HTML file, which makes no network requests and never runs text of the content."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from congruence.core.files import atomic
from congruence.report.results_table import ResultsTable

_SCRIPTS = ("base.js", "tables.js", "curves.js", "maps.js", "similarity.js", "changed.js")
_NEEDED = ("jinja2", "plotly")
NAME = "report.html"  # of the page in a folder
_HOW = "pip install 'congruence[report]'"


class NotInstalledError(ValueError):
    """The extra that is needed to make a page is not installed."""


@dataclass(frozen=True)
class Page:
    """The content of a page; parts that are empty are left out, with the sentences of `left`.

    Args:
        title: of the page.
        told: sentences under the title.
        tables: of results.
        notes: sentences under the tables: cells that failed, numbers left out.
        costs: {"x", "y", "points": [{"name", "x", "y", "sd", "kind", "front"}]} each.
        curves: of each run by name, as `report.curves` has them.
        samples: sets of samples, as `report.rebuilt.views` has them.
        views: a student beside its teacher each, with the number of its `samples`.
        made: settings of each run, see `report.provenance`.
        versions: by package.
        commands: which make the content and the page again.
        left: by part ("costs", "curves", "maps") why it is not there.
    """

    title: str
    told: list[str] = field(default_factory=list)
    tables: list[ResultsTable] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    costs: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)
    made: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    left: dict[str, list[str]] = field(default_factory=dict)


def check_installed() -> None:
    """Check before any work whether a page can be written.


    Raises:
        NotInstalledError: if a part of the extra is not installed.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise NotInstalledError(f"A page needs {' and '.join(missing)}, which {are} not installed: {_HOW}.")


def installed() -> bool:
    """Whether the extra is there that a page is made with."""
    try:
        check_installed()
    except NotInstalledError:
        return False
    return True


def as_data(value: Any) -> str:
    """Return JSON that may stand in a script element whatever texts it holds; NaN and infinity are null.

    Example:
        >>> print(as_data({"</script>": float("nan")}))
        {"\\u003c/script\\u003e":null}
    """
    text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def render(page: Page) -> str:
    """Return the page as HTML.

    Raises:
        NotInstalledError: if the extra is not installed.
    """
    check_installed()
    from jinja2 import Environment
    from plotly.offline import get_plotlyjs

    here = files("congruence.report").joinpath("page")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    library, own = get_plotlyjs(), "".join(here.joinpath(name).read_text(encoding="utf8") for name in _SCRIPTS)
    data = {key: getattr(page, key) for key in ("costs", "curves", "samples", "views")}
    return environment.from_string(here.joinpath("page.html").read_text(encoding="utf8")).render(
        page=page,
        style=here.joinpath("page.css").read_text(encoding="utf8"),
        data=as_data(data),
        library=library,
        own=own,
        allowed=" ".join(_hash_of(script) for script in (library, own)),
    )


def _hash_of(script: str) -> str:
    """Return by what a content security policy lets one script run, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def write(page: Page, path: Path) -> Path:
    """Write a page; the file is whole or absent."""
    text = render(page).encode()
    with atomic(path) as file:
        file.write(text)
    return path
