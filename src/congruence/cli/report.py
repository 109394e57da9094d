"""`congruence report`: write one HTML page of runs, a plan or a comparison."""

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
            help="Folders of runs, one folder of a plan, or one file written by congruence compare --json.",
            metavar="RUN...",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The file to write; by default report.html in the folder (for several runs, in the working "
            "directory).",
            show_default=False,
        ),
    ] = None,
    trust: Trust = False,
) -> None:
    """Write one self-contained HTML page: results, training, embeddings, and where student and teacher differ."""
    from congruence.cli.train import allow
    from congruence.report import report_of

    allow(trust)
    say(f"report: {report_of(what, out, trust=trust)}")
