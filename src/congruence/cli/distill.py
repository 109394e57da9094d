"""`congruence distill`: train a student, from a configuration, or from --teacher, --student and --data."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from congruence.cli.options import Metric, Out, Resume, Set, Trust, data_table
from congruence.cli.page import Report, command, tell_page
from congruence.cli.say import say

if TYPE_CHECKING:
    from congruence.config import RunConfig
    from congruence.data import Splits

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
        str | None,
        typer.Option(
            help="A model of the zoo, package.module:callable, hf:FOLDER, st:FOLDER, timm:NAME, onnx:FILE, export:FILE "
            "or jit:FILE.",
            rich_help_panel=_NO_CONFIG,
        ),
    ] = None,
    teacher_weights: Annotated[
        str | None,
        typer.Option(
            help="File of the teacher's weights; with a configuration, used instead of training its teacher stage."
        ),
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="A model of the zoo, or package.module:callable.", rich_help_panel=_NO_CONFIG)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="A folder of images, a file of texts, a dataset's name, or package.module:function, which returns "
            "datasets (with --trust).",
            rich_help_panel=_NO_CONFIG,
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Key of a method; repeatable. Default: kd; a teacher of other classes, or of none, gets a classifier "
            "of the data's, fitted on its features, or teaches by queue_relation where there are no labels.",
            rich_help_panel=_NO_CONFIG,
        ),
    ] = None,
    weight: Annotated[
        str | None,
        typer.Option(
            help="Weight of each method: balanced (default: its gradient on the student is kept at its share of the "
            "label loss's, whose weight is 1; a single method on data without labels has weight 1), published, or a "
            "number.",
            rich_help_panel=_NO_CONFIG,
            metavar="balanced|published|NUMBER",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the training data; default 30, or for little data as many as make 3,000 steps.",
            rich_help_panel=_NO_CONFIG,
            show_default=False,
        ),
    ] = None,
    teacher_views: Annotated[
        int | None,
        typer.Option(
            help="Ask the teacher about this many augmented views of each sample, a quarter of the epochs for "
            "instance, and keep its answers in the run's folder; default: about a new view in every epoch. An "
            "expensive teacher then takes little of a long run.",
            rich_help_panel=_NO_CONFIG,
            show_default=False,
        ),
    ] = None,
    report: Report = True,
) -> None:
    """Train a student, given a configuration or a teacher, a student and data; then measure it on the test set."""
    from congruence.cli.train import allow, folder, train
    from congruence.config import load_config
    from congruence.core import ranks
    from congruence.evaluation.measure import has_labels
    from congruence.models import named
    from congruence.pipeline import quick

    splits = None
    if config is not None:
        if teacher or student or data or method or weight or epochs is not None or teacher_views is not None:
            raise ValueError(
                "--teacher, --student, --data, --method, --weight, --epochs and --teacher-views are for runs without a "
                "configuration: use --set."
            )
        loaded = load_config(config, set_ or ())
        if teacher_weights is not None:
            loaded = loaded.with_teacher(teacher_weights)
    else:
        if not (teacher and student and data):
            raise ValueError("Give a configuration (a file or a recipe's name), or --teacher, --student and --data.")
        allow(trust)
        run = _Quick(teacher, teacher_weights, student, data, epochs, _number(weight), set_ or (), trust, teacher_views)
        loaded, splits = run.config(method or [quick.METHOD])
        if teacher_weights is None and (not named.split(teacher) or named.is_drawn(teacher)):
            say(f"No --teacher-weights: the teacher is used as '{teacher}' returns it, trained or not.", err=True)
        unlike = functools.partial(_unlike, loaded, splits, trust, default=not method)
        labels = splits.train.labels
        single = splits.train.classes is not None and labels is not None and labels.dim() == 1
        labelled = single and has_labels(splits.train)
        choice = quick.chosen(method or None, unlike, f"--method {quick.RELATIONAL}", labelled=labelled)
        if choice.told:
            say(choice.told, err=True)
            loaded, splits = run.config(choice.methods, splits, classifier=choice.classifier)
    place = folder(out, loaded)
    train(loaded, place, resume=resume, trust=trust, splits=splits, metrics=metric or ())
    if report and ranks.rank() == 0:
        from congruence.report import write_runs
        from congruence.report.as_html import NAME

        tell_page(lambda: write_runs([place], place / NAME, trust=trust, commands=[command()]))


class _Quick(NamedTuple):
    """The arguments of a run without a configuration."""

    teacher: str
    weights: str | None
    student: str
    data: str
    epochs: int | None
    weight: Any = "balanced"
    overrides: Sequence[str] = ()
    trust: bool = False
    views: int | None = None  # that the teacher is asked about

    def config(
        self, methods: Sequence[str], splits: Splits | None = None, *, classifier: bool = False
    ) -> tuple[RunConfig, Splits]:
        """Return the configuration and the data; the data's labels decide the terms.

        Args:
            methods: keys.
            splits: the data, where it was read.
            classifier: whether the teacher gets one of the data's classes.
        """
        from congruence.config import from_values
        from congruence.evaluation.measure import has_labels
        from congruence.pipeline import load_splits, quick

        if self.weights is None and ":" not in self.teacher:  # a factory or a file may bring its own weights
            raise ValueError(f"Give --teacher-weights: the teacher '{self.teacher}' comes without weights.")
        terms: list[dict[str, Any]] = [quick.weighed(key, self.weight) for key in methods]
        epochs = quick.EPOCHS if self.epochs is None else self.epochs
        trained: dict[str, Any] = {"epochs": epochs, "augment": True, **quick.train_tables()}
        values = {
            "name": "-".join(methods),
            "data": data_table(self.data),
            "stages": {
                "student": {
                    "teacher": _model(self.teacher) | ({"weights": self.weights} if self.weights else {}),
                    "student": _model(self.student),
                    "terms": terms,
                    "train": trained,
                }
                | ({} if self.views is None else {"teacher_cache": {"views": self.views}})
                | ({"teacher_head": {"kind": "classifier"}} if classifier else {})
            },
        }
        config = from_values(values, "command line", overrides=self.overrides)
        splits = load_splits(config.data, trust=self.trust) if splits is None else splits
        if self.epochs is None:
            batch_size = config.stages["student"].train.batch_size
            trained["epochs"] = quick.epochs_of(len(splits.train), batch_size)
        if has_labels(splits.train) and (of_labels := quick.label_term(methods, self.weight)):
            terms.append(of_labels)  # at the end, so that terms.0 of an override is the first --method
        return from_values(values, "command line", overrides=self.overrides), splits


def _number(weight: str | None) -> Any:
    """Return --weight as a number if it is one, else as the word."""
    from congruence.pipeline.quick import check_weight

    try:
        value: Any = "balanced" if weight is None else float(weight)
    except ValueError:
        value = weight
    check_weight("distill", value)
    return value


def _unlike(config: RunConfig, splits: Splits, trust: bool, *, default: bool) -> str | None:
    """Describe in a clause how the teacher's classes differ from the data's, by default also that it has none."""
    from congruence.core.inputs import TEACHER
    from congruence.data.datasets.model_facts import ModelFacts
    from congruence.pipeline import RunContext, quick
    from congruence.pipeline.build import as_teachers_take, build_teacher

    teacher = build_teacher(config, config.last, RunContext(splits, trust=trust))
    if teacher is None:
        return None
    train = as_teachers_take(config, config.last, splits, {TEACHER: teacher}).train
    shown = train.batch([0])
    clause = None if train.classes is None else quick.knows_other_classes(teacher, shown, ModelFacts.of(splits.train))
    return clause or (quick.gives_embeddings({TEACHER: teacher}, shown) if default else None)


def _model(name: str) -> dict[str, Any]:
    from congruence.models import named

    return {"factory": name} if ":" in name and not named.split(name) else {"model": name}
