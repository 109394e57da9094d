"""The page of findings, from the heads of `findings/*.sh`: `docs/update_reference.py` writes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from generated import ROOT
from prose import markdown, table

_INTRODUCTION = """# Findings

While this library was built, other libraries surprised it. Each surprise is a script in `findings/` that makes an
environment of its own with pinned versions and shows the behaviour; it fails where the behaviour has changed. The head
of each script says what was seen, and whom it hurts.
"""
_PART = re.compile(r"^(Behaviour|Seen|Whom it hurts): ", re.MULTILINE)


class Finding(NamedTuple):
    """The head of a script, in its parts."""

    name: str
    setting: str
    parts: dict[str, str]


def page() -> str:
    """Return the page."""
    found = findings()
    rows = [[f"[`{each.name}`](#{each.name.removesuffix('.sh')})", markdown(each.setting)] for each in found]
    return "\n".join([_INTRODUCTION, table(["script", "setting"], rows) + "\n", *map(_section, found)])


def findings() -> list[Finding]:
    """Return the findings by name.

    Raises:
        ValueError: for a script whose head lacks a part.
    """
    return [read(path) for path in sorted((ROOT / "findings").glob("*.sh"))]


def read(path: Path) -> Finding:
    """Read the head of a script: a line of the setting, and three parts."""
    lines = path.read_text(encoding="utf8").splitlines()[1:]
    head = [line.removeprefix("#").strip() for line in lines[: next(i for i, x in enumerate(lines) if x[:1] != "#")]]
    setting, *pieces = _PART.split("\n".join(head))
    parts = {name: " ".join(text.split()) for name, text in zip(pieces[::2], pieces[1::2], strict=True)}
    if list(parts) != ["Behaviour", "Seen", "Whom it hurts"] or not setting.strip():
        raise ValueError(
            f"{path.name}: its head must have a setting, Behaviour, Seen and Whom it hurts, in this order."
        )
    return Finding(path.name, " ".join(setting.split()), parts)


def _section(finding: Finding) -> str:
    parts = [f"**{name}:** {markdown(text)}" for name, text in finding.parts.items()]
    return "\n\n".join([f"## {finding.name.removesuffix('.sh')}", markdown(finding.setting), *parts]) + "\n"
