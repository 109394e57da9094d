"""`congruence report`: one page of runs, of a plan or of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from congruence.cli.options import Trust
from congruence.cli.say import say


def report(
    what: Annotated[
        list[str],
        typer.Argument(
            help="Folders of runs, one folder of a plan, or one file of congruence compare --json.", metavar="RUN..."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The file; report.html in the folder by default, of several runs in the working directory.",
            show_default=False,
        ),
    ] = None,
    trust: Trust = False,
) -> None:
    """Write one HTML page that opens anywhere: results, training, embeddings, and where student and teacher differ."""
    from congruence.cli.train import allow
    from congruence.report import report_of

    allow(trust)
    say(f"report: {report_of(what, out, trust=trust)}")
