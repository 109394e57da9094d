"""`say`: the one way by which the program prints, so that no name or path can steer a terminal."""

from __future__ import annotations

import typer

from congruence.core.printable import printable


def say(text: object = "", *, err: bool = False, lines: bool = False, colour: str | None = None) -> None:
    """Print a line; of what has several (`lines`: a table), all."""
    typer.secho(printable(str(text), lines=lines), err=err, fg=colour)
