"""`congruence figures`: the figures of a paper, from runs and plans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from congruence.cli.options import Trust
from congruence.cli.say import say


def figures(
    paper: Annotated[
        str, typer.Argument(help="cckd, intra-class, kda, kd2m or perception-coherence.", metavar="PAPER")
    ],
    folders: Annotated[
        list[str] | None,
        typer.Argument(help="Folders of runs and of plans; without any, what each figure needs.", metavar="FOLDER..."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the files.")] = Path("runs/figures"),
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only this figure, as the list names it; repeatable.")
    ] = None,
    trust: Trust = False,
    seed: Annotated[int, typer.Option(help="Of what is drawn at random: batches, toys.")] = 0,
    epochs: Annotated[int, typer.Option(help="Of the toys of perception-coherence.")] = 800,
) -> None:
    """Draw a paper's figures from runs and plans as PNG and SVG, and say what those that are missing need."""
    from congruence.cli.train import allow
    from congruence.report.figures import listed, write_figures

    if not folders and not only:
        for figure in listed(paper):
            say(f"{figure.key}: {figure.shows}. {figure.needs}")
        return
    allow(trust)
    outcomes = write_figures(paper, folders or (), out, only=only or (), trust=trust, seed=seed, epochs=epochs)
    wrote = False
    for outcome in outcomes:
        for file in outcome.files:
            say(f"{file}")
            wrote = True
        if outcome.why:
            say(f"{outcome.key}: {outcome.why}", err=True)
    if not wrote:
        raise typer.Exit(1)
