"""Fills the teachers' caches of a configuration before its runs, a shard at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from congruence.config.references import StudentRef
from congruence.core import check
from congruence.pipeline.build import Built, build_stage, cache_folders
from congruence.pipeline.context import RunContext
from congruence.teacher_cache import ShardState, fill_shard
from congruence.training import setup
from congruence.training.distributed import pick_device
from congruence.training.modes import arranged, settled
from congruence.training.saving.run_directory import RunDirectory

if TYPE_CHECKING:
    from congruence.config.schema import RunConfig

Report = Callable[[str, ShardState], None]


def parse_shard(text: str | None) -> tuple[int, int]:
    """Read "I/N"; without it, a process of several that torchrun started takes the part of its rank.

    Raises:
        ValueError: for another text, or a shard that is named to each of several ranks.

    Example:
        >>> parse_shard("2/8"), parse_shard(None)
        ((2, 8), (1, 1))
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if text is None:
        return (rank + 1, world)
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"--shard must be I/N with 1 <= I <= N, such as 1/4, got {text!r}.")
    if world > 1:
        raise ValueError(
            f"--shard must be left out under torchrun, where each of the {world} ranks fills the shard of its rank."
        )
    return int(found[1]), int(found[2])


def cached_stages(config: RunConfig, stage: str | None = None) -> list[str]:
    """Return the stages whose teachers' outputs are stored, or the one that is named.

    Raises:
        ValueError: if there is none, or the named one has no `teacher_cache`.
    """
    if stage is not None and stage not in config.stages:
        raise ValueError(f"--stage must be one of {', '.join(config.stages)}, got '{stage}'.")
    names = [name for name in config.stages if stage in (None, name) and config.stages[name].teacher_cache is not None]
    if not names:
        name = stage or config.last
        raise ValueError(
            f"The stage '{name}' has no teacher_cache: add the table [stages.{name}.teacher_cache], or "
            f"--set 'stages.{name}.teacher_cache={{views=8}}'."
        )
    return names


def folders_of(config: RunConfig, name: str, out: Path) -> dict[str, Path]:
    """Return the folders of a stage's caches, by the teachers' names."""
    stage = config.stages[name]
    if stage.teacher_cache is None:
        return {}
    return cache_folders(stage, stage.teacher_cache, RunContext(out=_place(config, name, out)))


def fill_caches(
    config: RunConfig,
    out: str | Path,
    shard: tuple[int, int] = (1, 1),
    *,
    stage: str | None = None,
    trust: bool = False,
    report: Report | None = None,
) -> dict[str, Mapping[str, ShardState]]:
    """Store one shard of the outputs of the teachers of a configuration, as its runs will ask for them.

    Args:
        config: the configuration of the runs.
        out: the run's folder, where its earlier stages' students are found, and a cache without a folder of its own.
        shard: (I, N).
        stage: a stage; None for all that have a `teacher_cache`.
        trust: whether factories may be imported.
        report: called with a name ("STAGE" or "STAGE/TEACHER") and a state when something was saved.

    Returns:
        The states by stage and teacher.

    Raises:
        ValueError: for a stage without a cache, a teacher that is an earlier stage's student and not trained yet, and
            all that `congruence.teacher_cache.fill_shard` and building the stage refuse.
    """
    done: dict[str, Mapping[str, ShardState]] = {}
    for name in cached_stages(config, stage):
        context = _context(config, name, Path(out), trust=trust)
        built = build_stage(config, name, context)
        told = None if report is None else _told(report, name, len(built.models.teachers) > 1)
        done[name] = _fill(built, shard, told)
    return done


def _told(report: Report, stage: str, several: bool) -> Report:
    return lambda teacher, state: report(f"{stage}/{teacher}" if several else stage, state)


def _context(config: RunConfig, name: str, out: Path, *, trust: bool = False) -> RunContext:
    stage = config.stages[name]
    teachers = {}
    for said in stage.teachers().values():
        if not isinstance(said, str):
            continue
        reference = StudentRef.parse(said)
        file = RunDirectory(out / reference.stage).student_file(reference.student)
        if not file.exists():
            raise ValueError(
                f"The stage '{name}' learns from the stage '{reference.stage}', which is not trained ('{file}' is "
                "absent): train it first, or give --teacher-weights."
            )
        teachers[reference] = file
    return RunContext(teachers=teachers, out=_place(config, name, out), trust=trust)


def _place(config: RunConfig, name: str, out: Path) -> Path:
    """Return the folder of a stage in the run's folder."""
    return out if name == config.last else out / name


def _fill(built: Built, shard: tuple[int, int], report: Report | None) -> dict[str, ShardState]:
    """Fill the shard with the models as `fit` would have them: on its device, prepared, in its order of memory."""
    distiller, device = built.distiller, pick_device(built.options.device)
    options = settled(built.options, distiller, device)
    with arranged(distiller, options, device):
        distiller.to(device)
        if not distiller.built:
            check.fail("fill_caches", "the stage", "one whose data gives an example", "none")
        setup.teachers_know(distiller, built.train_loader)
        for teacher in distiller.teachers.values() if options.teacher_speed == "auto" else ():
            teacher.prepare()
        return fill_shard(distiller, shard, report=report)
