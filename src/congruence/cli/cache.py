"""`congruence cache`: store the teacher's outputs before a run, on any number of processes or machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from congruence.cli.options import Config, Set, Trust
from congruence.cli.say import say

if TYPE_CHECKING:
    from congruence.teacher_cache import ShardState


def cache(
    config: Config,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Store part I of N of the training samples; by default all, under torchrun the part of each rank.",
            metavar="I/N",
            show_default=False,
        ),
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Only tell which shards are there, and how far.")] = False,
    stage: Annotated[
        str | None,
        typer.Option(help="A stage; by default all that have a teacher_cache.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the later run, in which the cache is unless teacher_cache.folder names another; "
            "runs/NAME by default.",
            show_default=False,
        ),
    ] = None,
    teacher_weights: Annotated[
        str | None, typer.Option(help="File of the teacher's weights, instead of an earlier stage's student.")
    ] = None,
    set_: Set = None,
    trust: Trust = False,
) -> None:
    """Run the teacher of a configuration on its training samples and store what it gives; repeat to go on after a kill.

    Processes and machines can each store a part. Runs of the configuration then read the files.
    """
    from congruence.cli.train import allow, folder
    from congruence.config import load_config
    from congruence.pipeline.caching import cached_stages, fill_caches, folders_of, parse_shard
    from congruence.teacher_cache import shards_in

    allow(trust)
    part = parse_shard(shard)
    loaded = load_config(config, set_ or ())
    if teacher_weights is not None:
        loaded = loaded.with_teacher(teacher_weights)
    place = folder(out, loaded)
    if status:
        for name in cached_stages(loaded, stage):
            folders = folders_of(loaded, name, place)
            for teacher, each in folders.items():
                _tell(f"{name}/{teacher}" if len(folders) > 1 else name, each, shards_in(each))
        return
    done = fill_caches(loaded, place, part, stage=stage, trust=trust, report=_report)
    for name in done:
        for each in folders_of(loaded, name, place).values():
            say(f"{name}: {each}")


def _report(name: str, state: ShardState) -> None:
    say(f"{name}: {_line(state)}")


def _line(state: ShardState) -> str:
    """Describe a shard.

    Example:
        >>> from congruence.teacher_cache import ShardState
        >>> _line(ShardState(2, 4, 640, 640, 2_560_000, {"fc": {"rows": 640, "mean": 0.002, "largest": 0.004}}))
        'shard 2/4: 640 of 640 rows, 2.6 MB, complete; rows of fc are off by 0.002 on average, 0.004 at most'
    """
    whole = ", complete" if state.complete else ""
    rounding = "".join(
        f"; rows of {path} are off by {each['mean']:.2g} on average, {each['largest']:.2g} at most"
        for path, each in state.rounding.items()
    )
    size = f"{state.size / 1e6:,.1f} MB"
    return f"shard {state.number}/{state.count}: {state.stored:,} of {state.rows:,} rows, {size}{whole}{rounding}"


def _tell(name: str, folder: Path, states: Sequence[ShardState]) -> None:
    """Print the shards in a folder, and those that are absent."""
    if not states:
        whole = (folder / "manifest.json").exists()
        say(f"{name}: no shards in '{folder}'{', but what runs stored' if whole else ''}")
    for state in states:
        say(f"{name}: {_line(state)}")
    for count in sorted({state.count for state in states}):
        there = {state.number for state in states if state.count == count}
        absent = [f"{number}/{count}" for number in range(1, count + 1) if number not in there]
        if absent:
            say(f"{name}: absent: {', '.join(absent)}")
