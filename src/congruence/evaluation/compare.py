"""`compare`: a teacher and one or several students, measured on the same samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.inputs import STUDENT, TEACHER
from congruence.data.datasets.model_facts import ModelFacts, check_same_classes, unrelated_classes
from congruence.data.loading.loader import loader as batches_of
from congruence.evaluation.changed import classes_of, most_changed, worst
from congruence.evaluation.compared import coherence_of_samples, plain
from congruence.evaluation.comparison import Comparison, Comparisons
from congruence.evaluation.cost import OUTSIDE, Cost, costs, runs_outside
from congruence.evaluation.embed import Embedded, beside, of_classes, tell_left_out
from congruence.evaluation.embeddings import NEEDS, Embeddings
from congruence.evaluation.kept import KeptRows
from congruence.evaluation.measure import OTHER_CLASSES
from congruence.evaluation.number import Number, Value
from congruence.evaluation.numbers import numbers_in
from congruence.evaluation.projection import Projection, project
from congruence.evaluation.protocol import Fitted
from congruence.evaluation.streamed import stream
from congruence.models.parameters import count_parameters

_MOST = 2**34  # bytes of kept embeddings
_BATCH = 64
_PROBE = "linear_probe_accuracy"
_COSTS = ("multiply_adds", "latency_1_ms", "latency_64_ms", "peak_memory_mb")
_OF_LOGITS = {NEEDS[need] for need in ("student_logits", "teacher_logits", "classes", "six_classes", "every_label")}


class _Asked(NamedTuple):
    """What is measured on request alone."""

    exact: bool
    probe: bool


@overload
def compare(  # noqa: D418  # the house asks for a docstring of every public function
    teacher: nn.Module,
    student: nn.Module,
    loader: Iterable[Any],
    *,
    teacher_layer: str | None = None,
    student_layer: str | Mapping[str, str | None] | None = None,
    device: str | torch.device | None = None,
    train_loader: Iterable[Any] | None = None,
    keep: str | Path | None = None,
    exact: bool = False,
    probe: bool = False,
    latency: bool = False,
    projection: Projection | Mapping[str, Projection] | None = None,
    protocol: Fitted | None = None,
) -> Comparison:
    """Compare one student."""


@overload
def compare(  # noqa: D418
    teacher: nn.Module,
    student: Mapping[str, nn.Module],
    loader: Iterable[Any],
    *,
    teacher_layer: str | None = None,
    student_layer: str | Mapping[str, str | None] | None = None,
    device: str | torch.device | None = None,
    train_loader: Iterable[Any] | None = None,
    keep: str | Path | None = None,
    exact: bool = False,
    probe: bool = False,
    latency: bool = False,
    projection: Projection | Mapping[str, Projection] | None = None,
    protocol: Fitted | None = None,
) -> Comparisons:
    """Compare several students."""


def compare(
    teacher: nn.Module,
    student: nn.Module | Mapping[str, nn.Module],
    loader: Iterable[Any],
    *,
    teacher_layer: str | None = None,
    student_layer: str | Mapping[str, str | None] | None = None,
    device: str | torch.device | None = None,
    train_loader: Iterable[Any] | None = None,
    keep: str | Path | None = None,
    exact: bool = False,
    probe: bool = False,
    latency: bool = False,
    projection: Projection | Mapping[str, Projection] | None = None,
    protocol: Fitted | None = None,
) -> Comparison | Comparisons:
    """Compare a student, or several, with their teacher on the samples of a loader.

    Each model reads the loader once. Numbers whose cost grows with the square of the samples are bounded: perception
    coherence is exact up to 2,000 samples (above that, three subsets of 2,000 are used, and 1,000 references for each
    sample's φ); neighbours and retrieval use 1,000 queries among all samples, nearest training samples 2,000 queries;
    similarities within and between classes and the Gaussians' W2² use 3,000 samples, the maximum mean discrepancy
    1,000. The random subsets are the same for every model.

    Args:
        teacher: the large model.
        student: the small model, or a mapping with several by name.
        loader: batches as `fit` takes them; read once.
        teacher_layer: the layer that gives the teacher's embedding; by default the input of the last Linear.
        student_layer: the layer that gives the student's embedding; with several students, one for all or by name.
        device: device to which all models are moved; None leaves them where they are.
        train_loader: training samples, for nearest-neighbour accuracy and linear probes.
        keep: a folder in which embeddings are kept (at most 16 GB; the oldest are removed), and reused while weights
            and data are the same. This needs a `congruence.data.loader` of a dataset of `congruence.data`, whose
            content can be identified; for other loaders, a message says so and models read them again.
        exact: also measure the exact W2² of 2,000 samples, which may take minutes.
        probe: also fit linear probes.
        latency: also measure the models' cost (multiply-adds, time, memory), on the first batch.
        projection: maps the student's features to the teacher's width, for the student's queries in the teacher's
            index: a weight [D_t, D_s], a module or a function; with several students, one for all or by name.
        protocol: a protocol (`evaluation.protocols`) whose numbers are also measured, fitted to the data whose test
            part the loader gives in order.

    Returns:
        Comparison, or Comparisons by name: see these classes for keys and units.

    Raises:
        ValueError: for a layer that does not exist, an empty loader, embeddings or logits that are not finite, a model
            from `load_student` whose training images were prepared differently or whose classes have other names or
            another order, no student, a student called "teacher", or a projection to another width. A teacher with
            entirely different classes is allowed, without its accuracy and agreement.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> batches = [(torch.randn(6, 4), torch.arange(6) % 3)]
        >>> compare(model, model, batches).agreement
        1.0
        >>> found = compare(model, {"same": model, "small": nn.Linear(4, 3)}, batches)
        >>> found["same"].gpcl, list(found)
        (1.0, ['same', 'small'])
    """
    students = _students(teacher, student)
    layers = {name: _of(student_layer, name, "student_layer", students) for name in students}
    projections = {name: _of(projection, name, "projection", students) for name in students}
    facts = ModelFacts.of(loader)
    for model in students.values():
        check_same_classes(model, facts, more=True)
    unrelated = unrelated_classes(teacher, facts)
    if not unrelated:
        check_same_classes(teacher, facts, more=True)
    models = {TEACHER: teacher, **students}
    reading: dict[str, Any] = {"layers": {TEACHER: teacher_layer, **layers}, "device": device}
    reading["kept"] = None if keep is None else KeptRows(Path(keep), most=_MOST)
    rows, example = stream(models, loader, **reading)
    trained = {} if train_loader is None else stream(models, train_loader, **reading).rows
    further = {} if protocol is None else _further(models, loader, protocol, train_loader is not None, reading)
    if unrelated:
        rows[TEACHER] = rows[TEACHER].without_classes(OTHER_CLASSES)
    found_costs = costs(models, example, device=device) if latency else {}
    asked = _Asked(exact, probe)
    labels, told = rows[TEACHER].labels, set()
    alone: dict[tuple[str, bool], tuple[dict[str, Value], dict[str, str]]] = {}

    def of_one(name: str, embedded: Embedded) -> tuple[dict[str, Value], dict[str, str]]:
        """Measure a model by itself; the teacher beside all students, unless its logits count beside some alone."""
        key = (name, embedded.logits is None)
        if key not in alone:
            of = beside(embedded, database=trained.get(name))
            of.require_finite("compare", own=name)
            values, why = _alone(of, embedded, asked, models[name], found_costs.get(name))
            if protocol is not None:
                published = protocol.measure(of, further[name])
                values |= {each: value for each, value in published.items() if value is not None or each not in values}
                why |= {each: "not defined on these samples" for each, value in published.items() if value is None}
            alone[key] = values, why
        return alone[key]

    found = {}
    for name in students:
        # Classes are told pair by pair, so that a student's numbers do not depend on the students beside it.
        pair = of_classes({TEACHER: rows[TEACHER], name: rows[name]}, loader, labels)
        new = {each: pair[each] for each in pair if (each, pair[each].left_out) not in told}
        tell_left_out(new)
        told |= {(each, embedded.left_out) for each, embedded in new.items()}
        ours, theirs = pair[name], pair[TEACHER]
        projected = None
        if projections[name] is not None:
            projected = project(ours.features, projections[name], theirs.features.shape[1], name=name)
        both = beside(ours, theirs, projected=projected)
        both.require_finite("compare", own=name)
        sides = {TEACHER: of_one(TEACHER, theirs), STUDENT: of_one(name, ours)}
        found[name] = _comparison(both, (ours.left_out or theirs.left_out), sides, asked, facts.class_names)
    return found[STUDENT] if isinstance(student, nn.Module) else Comparisons(found)


def _further(
    models: Mapping[str, nn.Module], loader: Any, protocol: Fitted, with_training: bool, reading: Mapping[str, Any]
) -> dict[str, dict[str, Tensor]]:
    """Return each model's features of the further samples of a protocol."""
    if protocol.database and not with_training:
        check.fail("compare", "train_loader", f"given with the protocol '{protocol.kind}', whose database it is", None)
    inputs = getattr(getattr(loader, "dataset", None), "inputs", None)  # as each model takes the test part
    found: dict[str, dict[str, Tensor]] = {name: {} for name in models}
    for part, samples in protocol.parts.items():
        taken = samples.for_models(**inputs) if isinstance(inputs, Mapping) else samples
        batches = batches_of(taken, batch_size=getattr(loader, "batch_size", None) or _BATCH, shuffle=False)
        for name, embedded in stream(models, batches, **reading).rows.items():
            found[name][part] = embedded.features
    return found


def _students(teacher: Any, student: Any) -> dict[str, nn.Module]:
    """Check the models, and return the students by name."""
    several = isinstance(student, Mapping)
    students = dict(student) if several else {STUDENT: student}
    if not isinstance(teacher, nn.Module):
        check.fail("compare", "teacher", "a torch module", type(teacher).__name__)
    if not students:
        check.fail("compare", "student", "a model, or several by name", "an empty mapping")
    for name, model in students.items():
        if not isinstance(name, str) or name in ("", TEACHER):
            check.fail("compare", "student", 'names other than "teacher" and ""', repr(name))
        if not isinstance(model, nn.Module):
            argument = f"student['{name}']" if several else "student"
            check.fail("compare", argument, "a torch module", type(model).__name__)
    return students


def _of(value: Any, name: str, argument: str, students: Mapping[str, nn.Module]) -> Any:
    """Return what is one student's of an argument that may be by name."""
    if not isinstance(value, Mapping):
        return value
    unknown = [each for each in value if each not in students]
    if unknown:
        check.fail("compare", argument, f"for students among {', '.join(students)}", repr(unknown[0]))
    return value.get(name)


def _comparison(
    both: Embeddings,
    no_logits: str,
    sides: Mapping[str, tuple[dict[str, Value], dict[str, str]]],
    asked: _Asked,
    names: tuple[str, ...] | None,
) -> Comparison:
    """Put together what is measured of a student, by itself and beside its teacher."""
    values: dict[str, Value] = {"samples": len(both.student_features)}
    left_out: dict[str, str] = {}
    for number in numbers_in("compare").values():
        if "teacher" in number.needs:
            measured, why = _measured(number, both, asked, no_logits)
            values |= measured
            left_out |= why
    for side, (measured, why) in sides.items():
        values |= {f"{side}_{key}": value for key, value in measured.items()}
        left_out |= {f"{side}_{key}": reason for key, reason in why.items()}
    own: dict[str, Any] = {entry.name: values.pop(entry.name) for entry in fields(Comparison) if entry.init}
    comparison = Comparison(**own)
    comparison.more.update(values)
    coherence = coherence_of_samples(*both.both())
    comparison.changed.extend(most_changed(both, coherence, names))
    if both.missing(("labels",)):
        left_out |= dict.fromkeys(("classes", "worst_classes"), f"needs {NEEDS['labels']}")
    else:
        comparison.classes.extend(classes_of(both, coherence, names))
        comparison.worst_classes.extend(worst(comparison.classes))
        if not comparison.worst_classes:
            left_out["worst_classes"] = no_logits or "needs class logits of both sides for every label"
    comparison.left_out.update(left_out)
    return comparison


def _alone(
    of: Embeddings, embedded: Embedded, asked: _Asked, model: nn.Module, costs: Cost | None
) -> tuple[dict[str, Value], dict[str, str]]:
    """Measure what a model has by itself: numbers, and why some are left out."""
    values: dict[str, Value] = {}
    left_out: dict[str, str] = {}
    for number in numbers_in("compare").values():
        if number.function is None:
            values[number.key] = None
            if number.key == "parameters" and runs_outside(model):
                left_out[number.key] = OUTSIDE
            elif number.key == "parameters":
                values[number.key] = count_parameters(model)
        elif "teacher" not in number.needs:
            measured, why = _measured(number, of, asked, embedded.left_out)
            values |= measured
            left_out |= {key: reason.replace(" of the student", "") for key, reason in why.items()}
    if costs is None:
        return {**values, **dict.fromkeys(_COSTS)}, {**left_out, **dict.fromkeys(_COSTS, "measured with latency=True")}
    return {**values, **costs}, {**left_out, **costs.left_out}


def _measured(number: Number, of: Embeddings, asked: _Asked, no_logits: str) -> tuple[dict[str, Value], dict[str, str]]:
    """Measure a row: its numbers, and why those are None that are."""
    option = "probe" if number.key == _PROBE else "exact"
    missing = of.missing(number.needs)
    if missing:
        reason = f"needs {', '.join(missing)}"
        if NEEDS["database"] in missing:
            reason += " (train_loader)"
        elif no_logits and _OF_LOGITS & set(missing):
            reason = no_logits
    else:
        reason = "not defined on these samples (too few, without labels, or not finite)"
    wanted = not number.on_request or (asked.probe if option == "probe" else asked.exact)
    if wanted:
        values = {key: plain(value) for key, value in number.measure(of).items()}
    else:
        values = dict.fromkeys(number.names or (number.key,))
        reason = reason if missing else f"measured with {option}=True"
    return values, {key: reason for key, value in values.items() if value is None}
