"""The blocks of Python in a page, and the scripts that write pages."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
_MARK = r"(?:<!-- not run: (?P<reason>.+?) -->\s*\n)?"
_BLOCK = re.compile(_MARK + r"```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One block; `reason` says why it is not run where that is so."""

    page: Path
    line: int
    code: str
    reason: str | None


def blocks(page: Path) -> list[Block]:
    """Return the blocks in order; one that is not closed is an error."""
    text = page.read_text(encoding="utf8")
    closed = [
        Block(page, text[: m.start("code")].count("\n") + 1, m["code"], m["reason"]) for m in _BLOCK.finditer(text)
    ]
    if len(closed) != len(re.findall(r"^```python$", text, re.MULTILINE)):
        raise ValueError(f"{page.name}: a block of Python is not closed, or has more than ```python on its fence")
    return closed


def run(block: Block, namespace: dict[str, Any], note: str = "") -> None:
    """Run a block; an error names the page and its line."""
    # Empty lines before it make a traceback show the page's own lines.
    code = compile("\n" * (block.line - 1) + block.code, str(block.page), "exec")
    try:
        exec(code, namespace)
    except Exception as error:
        lines = [frame.lineno for frame in inspect.trace() if frame.filename == str(block.page)]
        where = f"{block.page.name}, line {lines[-1] if lines else block.line}"
        raise AssertionError(f"{where}: {type(error).__name__}: {error} {note}".rstrip()) from error


def script(name: str) -> ModuleType:
    """Import a script of docs/ anew, with those beside it that it imports."""
    folder = ROOT / "docs"
    try:
        with mock.patch.object(sys, "path", [str(folder), *sys.path]):
            return importlib.import_module(name)
    finally:
        for path in folder.glob("*.py"):
            sys.modules.pop(path.stem, None)
