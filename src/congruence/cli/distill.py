"""`congruence distill`: train a student, from a configuration, or from --teacher, --student and --data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from congruence.cli.options import Metric, Out, Resume, Set, Trust

if TYPE_CHECKING:
    from congruence.config import RunConfig
    from congruence.data import Splits

_METHOD = "kd"  # by default
_RELATIONAL = "pkt"  # in its place where the teacher's classes are others
_LABELS = "ce"
_KD_LABELS = 0.1  # of the cross-entropy beside kd's 0.9; 1 beside every other method that has none of its own
_NO_CONFIG = "Without a configuration"


def distill(
    config: Annotated[
        str | None,
        typer.Argument(help="A TOML file, or a shipped recipe such as digits/pkt.", metavar="CONFIG"),
    ] = None,
    out: Out = None,
    resume: Resume = False,
    set_: Set = None,
    trust: Trust = False,
    metric: Metric = None,
    teacher: Annotated[
        str | None, typer.Option(help="A model of the zoo, or package.module:callable.", rich_help_panel=_NO_CONFIG)
    ] = None,
    teacher_weights: Annotated[
        str | None,
        typer.Option(help="The teacher's weights; with a configuration, instead of training its teacher stage."),
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="A model of the zoo, or package.module:callable.", rich_help_panel=_NO_CONFIG)
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A folder of images, or a dataset's name.", rich_help_panel=_NO_CONFIG)
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Key of a method; repeatable; kd by default, pkt for a teacher of other classes.",
            rich_help_panel=_NO_CONFIG,
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training data.", rich_help_panel=_NO_CONFIG)] = 30,
) -> None:
    """Train a student, from a configuration or from a teacher, a student and data; then measure it on the test set."""
    from congruence.cli.train import allow, folder, train
    from congruence.config import load_config

    splits = None
    if config is not None:
        if teacher or student or data or method:
            raise ValueError(
                "--teacher, --student, --data and --method are for runs without a configuration: use --set."
            )
        loaded = load_config(config, set_ or ())
        if teacher_weights is not None:
            loaded = loaded.with_teacher(teacher_weights)
    else:
        if not (teacher and student and data):
            raise ValueError("Give a configuration (a file or a recipe's name), or --teacher, --student and --data.")
        allow(trust)
        told = (teacher, teacher_weights, student, data)
        loaded, splits = _quick(*told, method or [_METHOD], epochs, set_ or ())
        if teacher_weights is None:
            typer.echo(f"No --teacher-weights: the teacher is as '{teacher}' makes it, trained or not.", err=True)
        of_logits = [term.key for term in loaded.stages[loaded.last].terms if _reads_logits(term.key)]
        unlike = _other_classes(loaded, splits, trust) if of_logits else None
        if unlike is not None and (method or of_logits != [_METHOD]):
            raise ValueError(
                f"{unlike}: '{of_logits[0]}' compares class logits; take a method of features, for one "
                f"--method {_RELATIONAL}."
            )
        if unlike is not None:
            typer.echo(f"{unlike}: the method is {_RELATIONAL}, which compares features, not {_METHOD}.", err=True)
            loaded, splits = _quick(*told, [_RELATIONAL], epochs, set_ or (), splits)
    train(loaded, folder(out, loaded), resume=resume, trust=trust, splits=splits, metrics=metric or ())


def _quick(
    teacher: str,
    weights: str | None,
    student: str,
    data: str,
    methods: list[str],
    epochs: int,
    overrides: Sequence[str],
    splits: Splits | None = None,
) -> tuple[RunConfig, Splits]:
    """Return the configuration of a teacher, a student and data, and the data, whose labels decide its terms."""
    from congruence.config import from_values
    from congruence.pipeline import load_splits

    if weights is None and ":" not in teacher:
        raise ValueError(f"Give --teacher-weights: the teacher '{teacher}' has none of its own.")
    terms: list[dict[str, Any]] = [{"key": key} for key in methods]
    values = {
        "name": "-".join(methods),
        "data": {"name": data},
        "stages": {
            "student": {
                "teacher": _model(teacher) | ({"weights": weights} if weights else {}),
                "student": _model(student),
                "terms": terms,
                # The methods' weights do not suit SGD's rate in every model: AdamW's step does not grow with them.
                "train": {"epochs": epochs, "augment": True, "optimizer": {"name": "adamw", "lr": 0.003}},
            }
        },
    }
    config = from_values(values, "command line", overrides=overrides)
    splits = load_splits(config.data) if splits is None else splits
    labels = splits.train.labels
    if labels is not None and bool((labels >= 0).any()) and not _learns_labels(methods):
        # At the end, so that terms.0 of an override is the first --method.
        terms.append({"key": _LABELS, "weight": _KD_LABELS if methods == ["kd"] else 1.0})
    return from_values(values, "command line", overrides=overrides), splits


def _other_classes(config: RunConfig, splits: Splits, trust: bool) -> str | None:
    """Say, in a clause, that the teacher tells other classes apart than the data has; None where it does not."""
    from congruence.data.datasets.model_facts import ModelFacts, other_classes, remembered
    from congruence.evaluation.embed import embed
    from congruence.evaluation.measure import knows_classes
    from congruence.pipeline import RunContext
    from congruence.pipeline.build import build_teacher

    train = splits.train
    teacher = build_teacher(config, config.last, RunContext(splits, trust=trust))
    try:
        if teacher is None or train.classes is None or knows_classes(teacher, train):
            return None
    except ValueError:  # what cannot be found out here the run itself says, where it needs it
        return None
    known = remembered(teacher)
    clause = None if known is None else other_classes(known[0], ModelFacts.of(train))
    if clause is not None:
        return f"The teacher {clause}"
    logits = embed(teacher, [train.batch([0])]).logits
    return f"The teacher has {0 if logits is None else logits.shape[1]} classes, the data {train.classes}"


def _reads_logits(key: str) -> bool:
    """Whether a method reads the teacher's class logits."""
    from congruence.methods import row

    return row(key).needs.teacher and "logits" in row(key).needs.roles


def _learns_labels(methods: Sequence[str]) -> bool:
    """Whether a method has a label loss of its own, and the classifier learns too.

    That loss is its only one, without a teacher, or a part called "ce". ArcFace's reads the features: beside it a
    method that reads the logits must teach the student's classifier, or its accuracy is chance.
    """
    from congruence.methods import row

    rows = [row(key) for key in methods]
    alone = any(r.needs.labels and not r.needs.teacher and r.needs.scope == "labelled" for r in rows)
    part = any(isinstance(r.weight, Mapping) and _LABELS in r.weight for r in rows)
    return (alone or part) and any("logits" in r.needs.roles for r in rows)


def _model(name: str) -> dict[str, Any]:
    return {"factory": name} if ":" in name else {"model": name}
