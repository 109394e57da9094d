"""`congruence evaluate`: a student's test numbers."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from congruence.cli.options import Metric, Set, Trust
from congruence.cli.say import say

if TYPE_CHECKING:
    from torch import nn

    from congruence.config import RunConfig
    from congruence.data import Splits
    from congruence.pipeline import Models
    from congruence.training.saving.run_directory import RunDirectory

LOG = logging.getLogger("congruence")


def evaluate(
    run: Annotated[str, typer.Argument(help="A run's folder, or a configuration (with --weights).", metavar="RUN")],
    weights: Annotated[str | None, typer.Option(help="The student's weights, instead of the run's best.")] = None,
    last: Annotated[bool, typer.Option("--last", help="Take the last epoch's weights, not the best one's.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Measure on data that is not prepared or named as the student's was.")
    ] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Measure W2² by the exact plan as well, which takes long.")
    ] = False,
    set_: Set = None,
    trust: Trust = False,
    metric: Metric = None,
) -> None:
    """Measure a student on the test set: accuracy, retrieval mAP, coherence with its teacher (GPCL), size, spread.

    Beside these what a protocol has: --set protocol.kind=retrieval (or classification, re-identification,
    identification, open-set).
    """
    from congruence.cli.train import allow, measured_alone, measured_beside, seen_of, table
    from congruence.data.datasets.model_facts import ModelFacts, check_same_classes
    from congruence.evaluation.kept import KeptRows
    from congruence.evaluation.measure import has_labels, run_numbers, see
    from congruence.evaluation.own import own_numbers
    from congruence.pipeline.measured_by import protocol_of
    from congruence.training.distributed import pick_device
    from congruence.training.saving.run_directory import RunDirectory

    allow(trust)
    own = own_numbers(metric or (), trust=trust)
    config, splits, made = _made(run, weights, last=last, overrides=set_ or [], trust=trust, unchecked=unchecked)
    device = str(pick_device(config.stages[config.last].train.device))
    classifies = config.stages[config.last].classifies()
    directory = RunDirectory(Path(run))
    numbers = run_numbers(own, exact=exact, labelled=has_labels(splits.test))
    protocol = protocol_of(config, splits)
    columns: dict[str, Any] = {}
    if classifies:
        for student in made.students.values():
            check_same_classes(student, ModelFacts.of(splits.train))
    kept = KeptRows(directory.teacher_rows) if directory.path.is_dir() else None
    taught = seen_of(made.teachers, splits, device, kept, protocol)
    beside = {name: seen.as_teacher(splits) for name, seen in taught.items()}
    for name, student in made.students.items():
        seen = see(student, splits, numbers, device=device, protocol=protocol)
        columns |= measured_beside(seen, numbers, beside, name, classifies=classifies, protocol=protocol)
        beside = {of: rows._replace(left_out="") for of, rows in beside.items()}  # which has been told
    columns |= measured_alone(taught, splits.train, protocol)
    say(json.dumps(columns, indent=2) if as_json else table(columns, title="test set", detail=True), lines=True)


def _made(
    run: str, weights: str | None, *, last: bool, overrides: list[str], trust: bool, unchecked: bool
) -> tuple[RunConfig, Splits, Models]:
    """Build the last stage's models, the students with their weights; without a folder, no earlier stage's student."""
    from congruence.config import load_config
    from congruence.config.references import StudentRef
    from congruence.data.datasets.model_facts import forget, remember
    from congruence.models import load_into, load_weights
    from congruence.models.teacher import called
    from congruence.models.untaught import mark_parts
    from congruence.pipeline import RunContext, build_models
    from congruence.training.saving.run_directory import RunDirectory, facts_of, untaught_of

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
    return config, splits, made


def _same_teacher(name: str, module: nn.Module, directory: RunDirectory, splits: Splits) -> bool:
    """Whether a teacher is that of a run, as far as both can be told."""
    from congruence.core.inputs import TEACHER, inputs_of
    from congruence.models.teacher import Teacher

    before, teacher = directory.teachers().get(name), Teacher(module)
    teacher.taps.probe(inputs_of(splits.train.example(), name, TEACHER), training=False)
    now = teacher.fingerprint().content
    return None in (before, now) or before == now
