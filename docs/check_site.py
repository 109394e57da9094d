"""Check the built site: `python docs/check_site.py build/site`.

No page or stylesheet may request anything of another host, and every public name must have a place to link to.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_ELSEWHERE = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
_IN_STYLES = re.compile(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]+)", re.IGNORECASE)
# Functions, classes and their members; a name with a colon is a module, which is a page, or a constant.
_NAME = re.compile(r"^(?:class )?(congruence[\w.]*)(?!:|[\w.])", re.MULTILINE)
# Attributes that a browser follows by itself, by the tag; "link" is told by its relation.
_FOLLOWED = {
    **dict.fromkeys(
        ("audio", "embed", "iframe", "img", "input", "script", "source", "track", "video"), ("src", "srcset")
    ),
    "image": ("href", "xlink:href"),
    "object": ("data",),
    "use": ("href", "xlink:href"),
}
_IDLE_RELATIONS = {"canonical", "next", "prev", "author", "license"}


class Page(HTMLParser):
    """What a page requests of other hosts, and the places in it."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[str] = []
        self.places: set[str] = set()
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at a tag."""
        given = {name: value or "" for name, value in attrs}
        self.places |= {given["id"]} if "id" in given else set()
        self._in_style = tag == "style"
        followed = _FOLLOWED.get(tag, ())
        if tag == "link" and given.get("rel") not in _IDLE_RELATIONS:
            followed = ("href",)
        self.requests += [given[name] for name in followed if _ELSEWHERE.match(given.get(name, ""))]
        self.requests += _IN_STYLES.findall(given.get("style", ""))
        if "mermaid" in given.get("class", "").split():  # whose script the theme would fetch
            self.requests.append("mermaid")

    def handle_data(self, data: str) -> None:
        """Look at the text of a stylesheet in the page."""
        if self._in_style:
            self.requests += _IN_STYLES.findall(data)

    def handle_endtag(self, tag: str) -> None:
        """Leave a stylesheet."""
        self._in_style = self._in_style and tag != "style"


def problems(site: Path) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong."""
    pages = sorted(site.rglob("*.html"))
    if not pages:
        yield f"{site}: no page is there; `make docs` builds them"
        return
    places: set[str] = set()
    for path in pages:
        page = Page()
        page.feed(path.read_text(encoding="utf8"))
        places |= page.places
        yield from (f"{path.relative_to(site)}: asks {request} of another host" for request in page.requests)
    for path in sorted(site.rglob("*.css")):
        found = _IN_STYLES.findall(path.read_text(encoding="utf8"))
        yield from (f"{path.relative_to(site)}: asks {request} of another host" for request in found)
    names = _NAME.findall((ROOT / "tests" / "contract" / "api.txt").read_text(encoding="utf8"))
    for name in names:
        if name.endswith(".extra_repr"):  # which docs/docstrings.py leaves out
            continue
        # A function in a module of the same name stands there under the longer one.
        if not {name, f"{name}.{name.rpartition('.')[2]}"} & places:
            yield f"{name}: a public name that is on no page of the reference"


if __name__ == "__main__":
    sys.exit("\n".join(problems(Path(sys.argv[1]))) or None)
