"""What the site makes of links to files of the repository that are no pages: a hook, named in mkdocs.yml.

`[the goldens](../../tests/golden/README.md)` leads there on GitHub. The site has no such page and names the file. A
link to a file that is not there is left for `mkdocs build --strict` to refuse.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#\s]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return a page's text as the site shows it."""
    return inside(markdown, page.file.src_uri)


def inside(markdown: str, name: str) -> str:
    """Return the text of a page, named by its path in docs/, with the files outside named instead of linked."""
    folder = (DOCS / name).parent

    def named(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if target.is_relative_to(DOCS) or not target.is_relative_to(ROOT) or not target.exists():
            return link[0]
        path = target.relative_to(ROOT).as_posix()
        return link[1] if path in link[1] else f"{link[1]} (`{path}`)"

    parts = _FENCED.split(markdown)
    return "".join(part if number % 2 else _LINK.sub(named, part) for number, part in enumerate(parts))
