"""A whole run: its stages one after the other, each resumed or left alone where it was finished."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from congruence import data
from congruence.config.load import load_config
from congruence.config.save import resolved_toml, write_resolved
from congruence.core import check, ranks
from congruence.core.files import writable
from congruence.models.weights import load_into
from congruence.pipeline.build import Built, build_stage, load_splits, rehearse
from congruence.pipeline.student import write_students
from congruence.training import FitResult, fit
from congruence.training.distributed import join_process_group, pick_device
from congruence.training.options import Callback
from congruence.training.validate import teaches_classes

if TYPE_CHECKING:
    from congruence.config.schema import RunConfig

CONFIG = "config.toml"
# Where and how often, not what: a run resumed with another of these is the same run.
_APART = ("device", "workers", "checkpoint_seconds", "tensorboard")


@dataclass(frozen=True)
class StageRun:
    """What a stage ended with: the students with their best weights in evaluation mode, their teacher and the data.

    `classifies` is False where no term teaches the classes: a student's accuracy then means nothing.
    """

    result: FitResult
    students: dict[str, nn.Module]
    teacher: nn.Module | None
    splits: data.Splits
    classifies: bool = True

    @property
    def student(self) -> nn.Module:
        """The student, where there is one."""
        if len(self.students) > 1:
            raise ValueError(f"This stage has {len(self.students)} students: use `students[name]`.")
        return next(iter(self.students.values()))


def run_stage(
    config: RunConfig,
    stage_name: str,
    *,
    teachers: dict[str, Path] | None = None,
    splits: data.Splits | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    trust: bool = False,
    callbacks: Sequence[Callback] = (),
) -> StageRun:
    """Build one stage (see `build_stage`) and train it."""
    built = build_stage(
        config,
        stage_name,
        teachers=teachers or {},
        splits=splits,
        out=out,
        resume=resume,
        trust=trust,
        callbacks=callbacks,
    )
    if out is not None and ranks.rank() == 0:
        folder = writable(Path(out))
        if not (folder / "run.json").exists():
            write_students(folder, built.models.described)
    result = fit(built.distiller, built.train_loader, built.val_loader, built.options)
    return _finished(built, result)


def _finished(built: Built, result: FitResult) -> StageRun:
    for name, student in built.models.students.items():
        load_into(student, result.best_states[name], source="the best epoch")
        student.eval()
    classifies = teaches_classes(built.distiller)
    return StageRun(result, built.models.students, built.models.teacher, built.splits, classifies)


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

    The last stage's files lie in `out` itself, an earlier one's in `out`/STAGE; `out`/config.toml is the whole resolved
    configuration. Every stage is built once before the first is trained, so that what does not fit is found at once.

    Args:
        config: of the run.
        out: its directory.
        resume: go on with the run that is there; finished stages are left alone. An absent run is started.
        trust: whether factories may be imported.
        callbacks: of every stage, or a function from a stage's name to its own.
        only: run this stage (and those it learns from) as if it were the last.
        splits: the data, where it is loaded already.

    Returns:
        What each stage ended with, by name.

    Raises:
        ValueError: for what cannot work, in one sentence and before anything is trained or written.
    """
    if only is not None:
        config = config.upto(only)
    for stage in config.stages.values():
        join_process_group(pick_device(stage.train.device))
    out = Path(out)
    _check_holds(out, config, resume=resume)
    ranks.barrier()
    splits = load_splits(config.data) if splits is None else splits
    rehearse(config, splits, trust=trust)
    if ranks.rank() == 0:
        writable(out)
        if not (out / CONFIG).exists():
            write_resolved(config, out / CONFIG)
    finished: dict[str, StageRun] = {}
    teachers: dict[str, Path] = {}
    for name in config.stages:
        last = name == config.last
        # Within a run that is this one, stages that are there are this run's own.
        finished[name] = run_stage(
            config,
            name,
            teachers=teachers,
            splits=splits,
            out=out if last else out / name,
            resume=resume or not last,
            trust=trust,
            callbacks=callbacks(name) if callable(callbacks) else callbacks,
        )
        files = finished[name].result.student_files
        teachers.update({name if len(files) == 1 else f"{name}/{student}": file for student, file in files.items()})
    return finished


def _check_holds(out: Path, config: RunConfig, *, resume: bool) -> None:
    """Refuse a directory that holds another run, or this one without `resume`."""
    path = out / CONFIG
    if not path.exists():
        if (out / "run.json").exists():
            raise ValueError(f"The folder '{out}' holds another run: choose another. Nothing in it was changed.")
        return
    before, now = _compared(_completed(path)), _compared(resolved_toml(config))
    if before != now:
        raise ValueError(
            f"The folder '{out}' holds another run ({check.difference(before, now)}): choose another. "
            f"Nothing in it was changed."
        )
    if not resume:
        raise ValueError(
            f"The folder '{out}' holds this run already: resume it (resume=True, or --resume), or choose another. "
            f"Nothing in it was changed."
        )


def _completed(path: Path) -> str:
    """Return a run's configuration with the defaults of keys that are younger than the run."""
    try:
        return resolved_toml(load_config(path))
    except ValueError:  # older than a change of the schema: as it is
        return path.read_text(encoding="utf8")


def _compared(text: str) -> dict[str, Any]:
    """Return a configuration without what may change between a run and its resumption."""
    values = tomllib.loads(text)
    values.get("data", {}).pop("root", None)
    values.pop("diagnostics", None)
    for stage in values.get("stages", {}).values():
        for key in _APART:
            stage.get("train", {}).pop(key, None)
        stage.get("teacher_cache", {}).pop("folder", None)
    return values
