"""From docstrings to Markdown: what the scripts that write the reference share."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

_CODE = re.compile(r"(``?[^`]+``?)")
_SPECIAL = re.compile(r"([\\*_\[\]|])")
_GOES_ON = re.compile(r"(of|at|in|over|under) ")
_WORD = re.compile(r"[a-z]{2,}\b(?![-_.(]\S)|a ")
_SECTION = re.compile(r"^(\w+):\n((?:(?:    .*)?\n?)*)", re.MULTILINE)
_ARGUMENT = re.compile(r"^\*{0,2}(\w+): (.*?)(?=^\*{0,2}\w+: |\Z)", re.MULTILINE | re.DOTALL)


def markdown(text: str) -> str:
    """Return prose with formulas as Markdown: code stays code, everything else is what it says.

    Example:
        >>> markdown("f_s * `a_b`")
        'f\\\\_s \\\\* `a_b`'
    """
    parts = _CODE.split(text)
    return "".join(part if i % 2 else _SPECIAL.sub(r"\\\1", part).replace("<", "&lt;") for i, part in enumerate(parts))


def paragraphs(text: str) -> str:
    """Return the paragraphs of a docstring as Markdown; a line that announces the next with a colon ends there."""
    ended = [re.sub(r":\n(?=\S)", ":  \0", each) for each in re.split(r"\n\s*\n", text.strip())]
    joined = [" ".join(line.strip() for line in each.splitlines()).replace("\0", "\n") for each in ended]
    return "\n\n".join(markdown(each) for each in joined)


def head(described: object) -> str:
    """Return what a docstring says before its sections."""
    return _SECTION.split(inspect.getdoc(described) or "", maxsplit=1)[0].strip()


def arguments(described: object) -> dict[str, str]:
    """Return the meaning of each argument, from the section "Args" of a docstring."""
    sections = {m[1]: m[2] for m in _SECTION.finditer((inspect.getdoc(described) or "") + "\n")}
    listed = inspect.cleandoc("\n" + sections.get("Args", ""))
    return {m[1]: " ".join(m[2].split()) for m in _ARGUMENT.finditer(listed)}


def sentence(text: str, name: str = "") -> str:
    """Return a meaning as a sentence of its own, in Markdown.

    Args:
        text: what a docstring says of an argument; it may go on from the argument's name, as "of the optimizer" does.
        name: of the argument.

    Example:
        >>> sentence("over which the rate grows", "warmup_epochs")
        'Warmup epochs over which the rate grows.'
    """
    text = text.strip()
    if not text:
        return ""
    if name and _GOES_ON.match(text):
        text = f"{name.replace('_', ' ')} {text}"
    text = text[0].upper() + text[1:] if _WORD.match(text) else text
    return markdown(text if text.endswith((".", "!", "?")) else text + ".")


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; cells are Markdown, of which only bars in code are still escaped."""
    lines = [list(titles), ["---"] * len(titles), *map(list, rows)]
    return "\n".join("| " + " | ".join(lines) + " |" for lines in lines)
