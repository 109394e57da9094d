"""Arguments that several verbs have: CONFIG, --out, --resume, --set and --trust."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[str, typer.Argument(help="A TOML file, or a shipped recipe such as digits/pkt.", metavar="CONFIG")]
Out = Annotated[Path | None, typer.Option(help="The run's folder; runs/NAME by default.", show_default=False)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder, or start it.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a value: stages.student.train.epochs=3.", metavar="KEY=VALUE"),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Allow factories and metrics, package.module:callable, to be imported, and files that can run code.",
    ),
]
Metric = Annotated[
    list[str] | None,
    typer.Option("--metric", help="A metric of yours, package.module:function; repeatable.", metavar="PKG:FN"),
]


def data_table(word: str) -> dict[str, str]:
    """Return the table [data] of --data: by name, or by a function that makes it, where nothing of that name is there.

    Example:
        >>> data_table("digits"), data_table("package.module:make")
        ({'name': 'digits'}, {'factory': 'package.module:make'})
    """
    return {"factory": word} if ":" in word and not Path(word).expanduser().exists() else {"name": word}
