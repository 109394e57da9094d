"""The defaults of a run without a configuration: its methods, their weights, and how it is trained.

Both the quick command and `congruence.distill` use them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from congruence.core import check
from congruence.core.inputs import STUDENT, TEACHER, inputs_of
from congruence.data.datasets.model_facts import ModelFacts, other_classes, remembered
from congruence.evaluation.embed import embed
from congruence.methods import Needs, Term, row
from congruence.models.classifier import says_embedding
from congruence.models.taps import Taps
from congruence.training import FitOptions, OptimizerOptions, ScheduleOptions

METHOD = "kd"  # by default; on few images and in 3,000 steps `dist` gains less (`benchmarks/course.py`)
RELATIONAL = "queue_relation"  # without class scores of the teacher: `benchmarks/other_classes.py`, `first_texts.py`
LABELS = "ce"
SEVERAL = "bce"  # of labels that hold by themselves
RATE = 0.003  # AdamW's: its step does not grow with the methods' weights, as SGD's does
EPOCHS, STEPS = 30, 3000  # by default, whichever is longer
_PUBLISHED_LABELS = 0.1  # of the cross-entropy beside kd's published 0.9
Weight = float | Literal["balanced", "published"]


def check_weight(function: str, weight: Any, share: float | None = None) -> None:
    """Raise for an invalid weight of a quick run."""
    known = isinstance(weight, str) and weight in ("balanced", "published")
    if not known and not check.NOT_NEGATIVE.accepts(weight):
        check.fail(function, "weight", "'balanced', 'published' or a number >= 0", repr(weight))
    if share is not None and weight != "balanced":
        check.fail(function, "share", "left out unless weight='balanced'", repr(share))
    if not (share is None or check.POSITIVE.accepts(share)):
        check.fail(function, "share", check.POSITIVE.describe(), repr(share))


def weighed(key: str, weight: Weight = "balanced", share: float | None = None) -> dict[str, Any]:
    """Return a method's term as a configuration has it.

    What learns the labels alone keeps its published weight: the others are balanced against it.

    Example:
        >>> weighed("pkt"), weighed("pkt", 0.5), weighed("pkt", "published"), weighed("arcface")
        ({'key': 'pkt', 'weight': 'balanced'}, {'key': 'pkt', 'weight': 0.5}, {'key': 'pkt'}, {'key': 'arcface'})
    """
    if weight == "published" or _is_label_loss(row(key).needs):
        return {"key": key}
    return {"key": key, "weight": weight} | ({} if share is None else {"share": share})


def label_term(methods: Sequence[str | Term], weight: Weight = "balanced") -> dict[str, Any] | None:
    """Return the term of a cross-entropy beside methods, None if they learn the labels already.

    Beside methods of labels that hold by themselves it is a binary one.

    Example:
        >>> label_term(["kd"]), label_term(["kd"], "published"), label_term(["mlld"], "published")
        ({'key': 'ce', 'weight': 1.0}, {'key': 'ce', 'weight': 0.1}, None)
    """
    if learns_labels(methods, weight):
        return None
    if any(_needs(method).multilabel for method in methods):
        return {"key": SEVERAL, "weight": 1.0}
    together = weight == "published" and list(methods) == [METHOD]
    return {"key": LABELS, "weight": _PUBLISHED_LABELS if together else 1.0}


def learns_labels(methods: Sequence[str | Term], weight: Weight = "balanced") -> bool:
    """Whether a method has a label loss of its own, and the classifier learns too.

    That loss is its only one, without a teacher, or a part called "ce" of one that is not balanced: what is to be as
    strong as the labels must have them beside it, and its own part can be next to nothing (mlld: 0.1 beside three of
    0.9). ArcFace's loss reads the features: beside it a method that reads the logits must teach the classifier, or its
    accuracy is chance.
    """
    alone = any(_is_label_loss(_needs(method)) for method in methods)
    part = any(_has_label_part(method, weight) for method in methods)
    return (alone or part) and any("logits" in _needs(method).roles for method in methods)


class Choice(NamedTuple):
    """The methods of a run, and what is to be told of the choice, "" for nothing."""

    methods: list[Any]
    told: str = ""
    classifier: bool = False  # whether one of the data's classes is to be fitted on the teacher's features


def chosen(methods: Sequence[Any] | None, unlike: Callable[[], str | None], way: str, *, labelled: bool) -> Choice:
    """Return the methods of a run, and how a teacher of other classes gets along with them.

    By default a classifier of the data's classes is fitted on its features where there are labels: no method of
    features gained anything over cross-entropy alone with 2,000 labelled images, and all gained less with few
    (`benchmarks/other_classes.py`).

    Args:
        methods: that were asked for; None for the default.
        unlike: says in a clause that the teacher tells other classes apart than the student, or none; asked where it
            matters.
        way: how a method of features is asked for.
        labelled: whether the data has labels.

    Raises:
        ValueError: for a method of the teacher's logits where its classes are others.
    """
    asked: list[Any] = [METHOD] if methods is None else list(methods)
    of_logits = [method for method in asked if _needs(method).teacher and "logits" in _needs(method).roles]
    clause = unlike() if of_logits else None
    if clause is None:
        return Choice(asked)
    if methods is not None:
        name = of_logits[0].name if isinstance(of_logits[0], Term) else of_logits[0]
        raise ValueError(f"{clause}: '{name}' compares class logits; take a method of features, for one {way}.")
    if labelled:
        return Choice(asked, f"{clause}: a classifier of the data's classes is fitted on its features.", True)
    return Choice([RELATIONAL], f"{clause}: the method is {RELATIONAL}, which compares features, not {METHOD}.")


def knows_other_classes(
    teacher: nn.Module, inputs: Any, facts: ModelFacts, student: nn.Module | None = None
) -> str | None:
    """Describe in a clause how a teacher's classes differ from the data's; None if they do not.

    Args:
        teacher: the model.
        inputs: of a few samples, on its device.
        facts: of the data.
        student: whose outputs are to be as many, where it is at hand.
    """
    known = remembered(teacher)
    clause = None if known is None else other_classes(known[0], facts)
    if clause is not None:
        return f"The teacher {clause}"
    widths = {"the data": facts.classes, "the student": width_of(student, inputs, STUDENT)}
    own = width_of(teacher, inputs, TEACHER) if any(widths.values()) else None
    other = next(((who, width) for who, width in widths.items() if width not in (None, own)), None)
    # What cannot be found out here the run itself says, where it needs it.
    return None if own is None or other is None else f"The teacher has {own} classes, {other[0]} {other[1]}"


def gives_embeddings(models: Mapping[str, nn.Module], inputs: Any) -> str | None:
    """Describe in a clause which model gives embeddings and no class scores, as encoders do; None for none.

    Args:
        models: by name, "teacher" and "student".
        inputs: of a few samples, on their device.
    """
    for name, model in models.items():
        taps = Taps(model, name=name)
        try:
            with torch.no_grad():
                taps.probe(inputs_of(inputs, name), training=False)
        except ValueError:
            continue  # the run itself says why
        found = taps.defaults
        scores = found.logits or found.probabilities or (None if says_embedding(found.features) else found.dense)
        if found.features is not None and scores is None:
            return f"The {name}'s output is an embedding, not class scores"
    return None


def epochs_of(samples: int, batch_size: int) -> int:
    """Return how many epochs a run has by default: 30, or of little data as many as make 3,000 steps.

    On 2,000 images 1,000 steps left both cross-entropy and kd three points below 3,200: `benchmarks/course.py`.

    Example:
        >>> epochs_of(50_000, 64), epochs_of(400, 64)
        (30, 429)
    """
    return max(EPOCHS, math.ceil(STEPS / max(1, math.ceil(samples / batch_size))))


def train_tables(rate: float = RATE) -> dict[str, Any]:
    """Return how a quick run is trained, as the table `train` of a configuration: optimizer, schedule, best epoch.

    The validation part of a first try is often a few dozen samples. The highest accuracy of hundreds of epochs on them
    is mostly luck, so the best epoch is the last one within a standard error of it.

    Without a warm-up: one of 1 or 3 epochs moved the validation accuracy of kd by +1.1 and 0.0 points, that of rkd by
    -2.2 and -1.1 (digits with 8 labels a class, 15 epochs, 3 seeds).
    """
    return {
        "one_standard_error": True,
        "optimizer": {"name": "adamw", "lr": rate},
        "schedule": {"name": "cosine"},
    }


def fit_options(rate: float = RATE, **more: Any) -> FitOptions:
    """Return the same as `FitOptions`, with what else they are to be.

    Example:
        >>> fit_options(epochs=3).optimizer.lr
        0.003
    """
    trained = train_tables(rate)
    optimizer, schedule = OptimizerOptions(**trained.pop("optimizer")), ScheduleOptions(**trained.pop("schedule"))
    return FitOptions(optimizer=optimizer, schedule=schedule, **trained | more)


def width_of(model: nn.Module | None, inputs: Any, name: str) -> int | None:
    """Return how many classes a model tells apart, None if it has no logits that can be found."""
    if model is None:
        return None
    try:
        logits = embed(model, [(inputs,)], name=name).logits
    except ValueError:
        return None
    return None if logits is None else logits.shape[1]


def _needs(method: str | Term) -> Needs:
    return method.needs if isinstance(method, Term) else row(method).needs


def _is_label_loss(needs: Needs) -> bool:
    return needs.labels and not needs.teacher and needs.scope == "labelled"


def _has_label_part(method: str | Term, weight: Weight) -> bool:
    published = method.published if isinstance(method, Term) else row(method).weight
    balanced = method.balanced if isinstance(method, Term) else weight == "balanced"
    return not balanced and isinstance(published, Mapping) and LABELS in published
