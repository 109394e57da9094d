"""The HTML page that verbs write of their results at the end."""

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
        help="Write an HTML page of the results, if the extra 'report' of congruence is installed.",
        envvar="CONGRUENCE_REPORT",
    ),
]


def command() -> str:
    """Return the running command as it was typed."""
    return shlex.join(["congruence", *sys.argv[1:]])


def tell_page(write: Callable[[], Path], *, err: bool = False) -> None:
    """Write a page and print its path; any failure is reported in one sentence and affects nothing else.

    Args:
        write: the function that writes the page.
        err: print to stderr, for when a program reads stdout.
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
