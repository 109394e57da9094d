"""What verbs that make results have in common: the page that they write of them at their end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from congruence.cli.say import say

Report = Annotated[
    bool,
    typer.Option(
        "--report/--no-report",
        help=r"Write a page of the results, where the extra congruence\[report] is installed.",
        envvar="CONGRUENCE_REPORT",
    ),
]


def command() -> str:
    """Return the command that runs now, as it is typed."""
    return shlex.join(["congruence", *sys.argv[1:]])


def tell_page(write: Callable[[], Path], *, err: bool = False) -> None:
    """Write a page and say where it is; whatever goes wrong is one sentence, and nothing else is lost by it.

    Args:
        write: writes the page.
        err: say it on stderr, where stdout is read by a program.
    """
    from congruence.core.check import sentence
    from congruence.report.as_html import NotInstalledError, check_installed

    try:
        check_installed()
        path = write()
    except NotInstalledError as error:
        say(f"No page was written. {error}", err=err)
        return
    except Exception as error:
        say(f"No page was written: {sentence(error)}", err=True)
        return
    say(f"report: {path}", err=err)
