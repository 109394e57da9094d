"""`say`: the only function that prints; it escapes control characters in names and paths."""

from __future__ import annotations

import typer

from congruence.core.printable import printable


def say(text: object = "", *, err: bool = False, lines: bool = False, colour: str | None = None) -> None:
    """Print a text as one line; with `lines` (for a table), keep its line breaks."""
    typer.secho(printable(str(text), lines=lines), err=err, fg=colour)
