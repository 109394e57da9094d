"""`congruence evaluate`: measure a student on the test set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from congruence.cli.options import Metric, Set, Trust
from congruence.cli.say import say


def evaluate(
    run: Annotated[str, typer.Argument(help="A run's folder, or a configuration (with --weights).", metavar="RUN")],
    weights: Annotated[
        str | None, typer.Option(help="File of the student's weights, used instead of the run's best.")
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="Use the weights of the last epoch, not of the best.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    unchecked: Annotated[
        bool,
        typer.Option(
            "--unchecked", help="Allow data whose preparation or class names differ from the student's training data."
        ),
    ] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Measure W2² by the exact plan as well, which takes long.")
    ] = False,
    set_: Set = None,
    trust: Trust = False,
    metric: Metric = None,
) -> None:
    """Measure a student on the test set: accuracy, retrieval mAP, coherence with its teacher (GPCL), size, spread.

    A protocol adds its numbers: --set protocol.kind=retrieval (or classification, re-identification, identification,
    open-set, coherence).
    """
    from congruence.cli.train import allow, measured_alone, measured_beside, seen_of, table
    from congruence.data.datasets.model_facts import ModelFacts, check_same_classes
    from congruence.evaluation.kept import KeptRows
    from congruence.evaluation.measure import has_labels, run_numbers, see
    from congruence.evaluation.own import own_numbers
    from congruence.pipeline.finished import finished
    from congruence.pipeline.measured_by import protocol_of
    from congruence.training.distributed import pick_device
    from congruence.training.saving.run_directory import RunDirectory

    allow(trust)
    own = own_numbers(metric or (), trust=trust)
    found = finished(run, weights, last=last, overrides=set_ or (), trust=trust, unchecked=unchecked)
    config, splits, made = found.config, found.models.splits, found.models
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
        beside = {of: rows._replace(left_out="") for of, rows in beside.items()}  # already reported
    columns |= measured_alone(taught, splits.train, protocol)
    say(json.dumps(columns, indent=2) if as_json else table(columns, title="test set", detail=True), lines=True)
