"""Arguments that several verbs share: CONFIG, --out, --resume, --set and --trust."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[str, typer.Argument(help="A TOML file, or a shipped recipe such as digits/pkt.", metavar="CONFIG")]
Out = Annotated[Path | None, typer.Option(help="The run's folder; runs/NAME by default.", show_default=False)]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in the folder, or start it.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a value: stages.student.train.epochs=3.", metavar="KEY=VALUE"),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Allow importing factories and metrics (package.module:callable) and loading files that can run code.",
    ),
]
Metric = Annotated[
    list[str] | None,
    typer.Option("--metric", help="Your own metric, package.module:function; repeatable.", metavar="PKG:FN"),
]


def data_table(word: str) -> dict[str, str]:
    """Return the table [data] for --data: a name or folder, or else a function that makes the data.

    Example:
        >>> data_table("digits"), data_table("package.module:make")
        ({'name': 'digits'}, {'factory': 'package.module:make'})
    """
    return {"factory": word} if ":" in word and not Path(word).expanduser().exists() else {"name": word}
