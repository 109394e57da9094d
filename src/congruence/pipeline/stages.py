"""A whole run: its stages one after the other, each resumed or left alone where it was finished."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from congruence import data
from congruence.config.load import load_config
from congruence.config.references import StudentRef
from congruence.config.save import resolved_toml, write_resolved
from congruence.core import check, ranks
from congruence.core.files import writable
from congruence.core.inputs import TEACHER
from congruence.evaluation.protocol import Fitted
from congruence.pipeline.build import Built, build_stage, cache_folders, rehearse, rehearsed
from congruence.pipeline.context import RunContext
from congruence.pipeline.measured_by import protocol_of
from congruence.pipeline.student import leave_best, write_students
from congruence.teacher_cache.shards import refuse_missing
from congruence.training import FitResult, fit
from congruence.training.distributed import join_process_group, pick_device
from congruence.training.options import Callback
from congruence.training.saving.identity import check_goes_on, config_identity, more_epochs
from congruence.training.saving.run_directory import RunDirectory
from congruence.training.validate import teaches_classes

if TYPE_CHECKING:
    from congruence.config.schema import RunConfig


@dataclass(frozen=True)
class StageRun:
    """What a stage ended with: the students with their best weights in evaluation mode, their teachers and the data.

    `classifies` is False where no term teaches the classes: a student's accuracy then means nothing. `protocol` is what
    else is measured of it.
    """

    result: FitResult
    students: dict[str, nn.Module]
    teachers: dict[str, nn.Module]
    splits: data.Splits
    classifies: bool = True
    protocol: Fitted | None = None

    @property
    def teacher(self) -> nn.Module | None:
        """The only teacher; None if there is none, or several."""
        return self.teachers.get(TEACHER)

    @property
    def student(self) -> nn.Module:
        """The student, where there is one."""
        if len(self.students) > 1:
            raise ValueError(f"This stage has {len(self.students)} students: use `students[name]`.")
        return next(iter(self.students.values()))


def run_stage(config: RunConfig, stage_name: str, context: RunContext) -> StageRun:
    """Build one stage (see `build_stage`) and train it."""
    return _trained(config, build_stage(config, stage_name, context))


def _trained(config: RunConfig, built: Built) -> StageRun:
    out = None if built.options.out is None else Path(built.options.out)
    if out is not None and ranks.rank() == 0:
        directory = RunDirectory(out, writes=True)
        if not directory.identity.exists():
            write_students(directory, built.models.described)
    protocol = protocol_of(config, built.splits)
    students, teachers = built.models.students, built.models.teachers
    if built.options.shard is not None:  # what follows runs on the first rank alone, which no sharded model can
        students, teachers = copy.deepcopy((students, teachers))
    result = fit(built.distiller, built.train_loader, built.val_loader, built.options)
    leave_best(students, result, out)
    classifies = teaches_classes(built.distiller)
    return StageRun(result, students, teachers, built.splits, classifies, protocol)


def run(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    trust: bool = False,
    callbacks: Sequence[Callback] | Callable[[str], Sequence[Callback]] = (),
    only: str | None = None,
    splits: data.Splits | None = None,
) -> dict[str, StageRun]:
    """Run the stages of a configuration.

    The last stage's files are in `out` itself, an earlier stage's in `out`/STAGE; `out`/config.toml is the whole
    resolved configuration. Every stage is built once before the first is trained, so that errors are found at once.

    Args:
        config: the run's configuration.
        out: the run's directory.
        resume: continue the existing run; finished stages are skipped. An absent run is started.
        trust: whether factories may be imported.
        callbacks: callbacks for every stage, or a function from a stage's name to its callbacks.
        only: run this stage (and those it learns from) as if it were the last.
        splits: the data, if it is already loaded.

    Returns:
        The result of each stage, by name.

    Raises:
        ValueError: for anything that cannot work, before anything is trained or written.
    """
    if only is not None:
        config = config.upto(only)
    for stage in config.stages.values():
        join_process_group(pick_device(stage.train.device))
    directory = RunDirectory(Path(out))
    config = _as_before(config, directory)
    longer = _check_holds(directory, config, resume=resume)
    ranks.barrier()
    common = RunContext(splits=splits, trust=trust).with_splits(config.data)
    finished: dict[str, StageRun] = {}
    teachers: dict[StudentRef, Path] = {}

    def context(name: str) -> RunContext:
        last = name == config.last
        return replace(
            common,
            teachers=dict(teachers),
            out=directory.path if last else directory.path / name,
            resume=resume or not last,  # within a run that is this one, stages that are there are this run's own
            callbacks=tuple(callbacks(name) if callable(callbacks) else callbacks),
        )

    for name, stage in config.stages.items():
        if stage.teacher_cache is not None:
            for folder in cache_folders(stage, stage.teacher_cache, context(name)).values():
                refuse_missing(folder)
    alone = _built_alone(config, context)
    if alone is None:
        config = rehearse(config, common)
    else:
        config = config.with_training({config.last: rehearsed(alone)})
    if ranks.rank() == 0:
        writable(directory.path)
        if longer or not directory.config.exists():
            write_resolved(config, directory.config)
    for name in config.stages:
        finished[name] = _trained(config, alone or build_stage(config, name, context(name)))
        teachers.update({StudentRef(name, s): file for s, file in finished[name].result.student_files.items()})
    return finished


def _built_alone(config: RunConfig, context: Callable[[str], RunContext]) -> Built | None:
    """Build the only stage once, to find out whether it fits and to be trained; None if a dry one has to go before.

    So it is with several stages, and where building takes a pass over the data and writes what it found.
    """
    stage = config.stages[config.last]
    if len(config.stages) > 1 or stage.heads() or stage.train.sampler is not None:
        return None
    alone = context(config.last)
    protocol_of(config, alone.loaded(config.data))  # which says what does not fit
    return build_stage(config, config.last, alone)


def _as_before(config: RunConfig, directory: RunDirectory) -> RunConfig:
    """Return a configuration with what "auto" stood for when the run began."""
    try:
        before = load_config(directory.config).stages if directory.config.exists() else {}
    except ValueError:  # older than a change of the schema
        return config
    kept = {name: stage.train.channels_last for name, stage in before.items()}
    auto = (name for name, stage in config.stages.items() if stage.train.channels_last == "auto")
    return config.with_training({name: {"channels_last": kept[name]} for name in auto if name in kept})


def _check_holds(directory: RunDirectory, config: RunConfig, *, resume: bool) -> bool:
    """Refuse a directory that holds another run, or this one without `resume`; tell whether this one is longer."""
    out = directory.path
    if not directory.config.exists():
        if directory.identity.exists():
            raise ValueError(f"The folder '{out}' holds another run: choose another. Nothing in it was changed.")
        return False
    before, now = (
        config_identity(tomllib.loads(text)) for text in (_completed(directory.config), resolved_toml(config))
    )
    before = _where_moved(before, now)
    longer = resume and _longer(before, now, config.last, directory)
    if before != now and not longer:
        raise ValueError(
            f"The folder '{out}' holds another run ({check.difference(before, now)}): choose another. "
            f"Nothing in it was changed."
        )
    if not resume:
        raise ValueError(
            f"The folder '{out}' holds this run already: resume it (resume=True, or --resume), or choose another. "
            f"Nothing in it was changed."
        )
    return longer


def _where_moved(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration before with the files of teachers' weights that lie elsewhere now.

    `fit` finds out itself whether the network in them is the run's teacher.
    """
    before = copy.deepcopy(before)
    for name, stage in before.get("stages", {}).items():
        teachers = [each.get("stages", {}).get(name, {}).get("teacher") for each in (before, now)]
        if not all(isinstance(each, dict) for each in teachers):
            continue
        pairs = [teachers, *([old, teachers[1].get(key)] for key, old in stage["teacher"].items())]
        for old, new in (pair for pair in pairs if all(isinstance(each, dict) for each in pair)):
            there = [isinstance(each.get("weights"), str) and Path(each["weights"]).is_file() for each in (old, new)]
            if "weights" in old and there == [False, True]:
                old["weights"] = new["weights"]
    return before


def _longer(before: dict[str, Any], now: dict[str, Any], last: str, directory: RunDirectory) -> bool:
    """Whether a configuration is the one before but for more epochs of the last stage, which its schedule allows."""
    if last not in before.get("stages", {}):
        return False
    rest = copy.deepcopy([before, now])
    old, new = (values["stages"][last].pop("train") for values in rest)
    if rest[0] != rest[1] or not more_epochs(old, new):
        return False
    name = next(iter(RunDirectory(directory.path).student_files(last=True)), "student")
    weights = f"stages.{last}.student{'' if name == 'student' else f'.{name}'}.weights"
    way = f"another `out` with --set {weights}={directory.student_file(name, last=True)}"
    check_goes_on(str(directory.path), old, new, way)
    return True


def _completed(path: Path) -> str:
    """Return a run's configuration with the defaults of keys that are younger than the run."""
    try:
        return resolved_toml(load_config(path))
    except ValueError:  # older than a change of the schema: as it is
        return path.read_text(encoding="utf8")
