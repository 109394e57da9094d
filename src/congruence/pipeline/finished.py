"""The models of a run that has ended, its last stage's students with their weights, and its data as they take it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from congruence.config.load import load_config
from congruence.config.references import StudentRef
from congruence.core.inputs import TEACHER, inputs_of
from congruence.data.datasets.model_facts import forget, remember
from congruence.data.sources.load import Splits
from congruence.models.teacher import Teacher, called
from congruence.models.untaught import mark_parts
from congruence.models.weights import load_into, load_weights
from congruence.pipeline.build import Models, build_models
from congruence.pipeline.context import RunContext
from congruence.pipeline.features import with_kept_head
from congruence.training.saving.run_directory import RunDirectory, facts_of, untaught_of

if TYPE_CHECKING:
    from congruence.config.schema import RunConfig

LOG = logging.getLogger("congruence")


@dataclass(frozen=True)
class Finished:
    """A run's configuration and, of its last stage, the models, and the data as these take it."""

    config: RunConfig
    models: Models


def finished(
    run: str | Path,
    weights: str | None = None,
    *,
    last: bool = False,
    overrides: Sequence[str] = (),
    trust: bool = False,
    unchecked: bool = False,
) -> Finished:
    """Build the last stage's models, the students with their weights; without a folder, no earlier stage's student.

    Args:
        run: a run's folder, or a configuration (with `weights`).
        weights: the student's, instead of the run's best.
        last: take the last epoch's weights, not the best one's.
        overrides: KEY=VALUE for the configuration.
        trust: whether factories may be imported.
        unchecked: whether data that is prepared or named otherwise is let pass.

    Raises:
        ValueError: for a folder without a run, and weights that are not there or do not fit.
    """
    directory = RunDirectory(Path(run))
    in_folder = directory.path.is_dir()
    if in_folder and not directory.config.is_file():
        raise ValueError(
            f"The folder '{run}' holds no run (no {directory.config.name}): give a configuration and --weights."
        )
    if not in_folder and weights is None:
        raise ValueError(f"'{run}' is no run's folder: give --weights with a configuration.")
    config = load_config(directory.config if in_folder else run, overrides)
    stage = config.stages[config.last]
    references = [StudentRef.parse(each) for each in stage.teachers().values() if isinstance(each, str)]
    teachers = {each: RunDirectory(directory.path / each.stage).student_file(each.student) for each in references}
    if references and not in_folder:
        stage = stage.model_copy(update={"teacher": None})
        config = config.model_copy(update={"stages": {**config.stages, config.last: stage}})
    if weights is not None and len(stage.students()) > 1:
        raise ValueError(f"--weights is for one student, this run has {len(stage.students())}.")
    context = RunContext(teachers=teachers, trust=trust).with_splits(config.data)
    made = build_models(config, config.last, context)
    splits = made.splits
    for name, module in made.students.items():
        path = Path(weights) if weights else directory.student_file(name, last=last)
        load_into(module, load_weights(path), source=f"'{path}'")
        if weights is None:
            mark_parts(module, untaught_of(path))
        facts = None if unchecked else facts_of(path)
        if facts is not None:
            remember(module, facts, path)
        elif not unchecked and in_folder:
            LOG.warning("'%s' does not say what it was trained on: the data cannot be compared with it.", path)
    if in_folder:
        headed = {
            name: with_kept_head(made.teachers[name], head, splits.train, directory, name=name)
            for name, head in stage.heads().items()
        }
        made = replace(made, teachers={**made.teachers, **headed})
    for name, teacher in made.teachers.items():
        if in_folder and not _same_teacher(name, teacher, directory, splits):
            LOG.warning(
                "The %s is another one than that of the run in '%s': its numbers, and the coherence with it, are of "
                "the one that is made now. Give it its weights file of then, where it has one.",
                called(name),
                run,
            )
        if unchecked:
            forget(teacher)
    return Finished(config, made)


def _same_teacher(name: str, module: nn.Module, directory: RunDirectory, splits: Splits) -> bool:
    """Whether a teacher is that of a run, as far as both can be told."""
    before, teacher = directory.teachers().get(name), Teacher(module)
    teacher.taps.probe(inputs_of(splits.train.example(), name, TEACHER), training=False)
    now = teacher.fingerprint().content
    return None in (before, now) or before == now
