"""Where each term reads: its method, bound to layers of the models and checked against the dry forward."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from congruence.core import check
from congruence.data.datasets.facts import DataFacts
from congruence.methods.method import Method, Probe
from congruence.methods.term import Term
from congruence.models.parameters import shares_parameters
from congruence.models.projectors import rows
from congruence.models.taps import Taps


@dataclass(frozen=True)
class Binding:
    """A term's method and the layers it reads.

    `paths` is keyed by (model, role) with models as the method calls them; `models` says which model each name is.
    """

    term: str
    method: Method
    students: tuple[str, ...]
    models: Mapping[str, str]
    paths: Mapping[tuple[str, str], tuple[str, ...]]

    def without_teacher(self) -> Binding:
        """Return the same binding with the students' side alone."""
        return replace(
            self,
            models={name: model for name, model in self.models.items() if name != "teacher"},
            paths={key: paths for key, paths in self.paths.items() if key[0] != "teacher"},
        )


def for_students(terms: list[Term], students: tuple[str, ...], *, teacher: bool, facts: DataFacts | None) -> list[Term]:
    """Give each student its own copy of the terms that see one student at a time, and check names and needs."""
    expanded: list[Term] = []
    instances = [term.make() for term in terms if term.holds_method]
    if len({id(instance) for instance in instances}) < len(instances):
        raise ValueError("`Distiller`: two terms hold the same Method: give each its own.")
    for term in terms:
        if term.needs.teacher and not teacher:
            raise ValueError(f"The term '{term.name}' needs a teacher, there is none.")
        if term.needs.facts and facts is None:
            raise ValueError(
                f"The term '{term.name}' needs facts of the dataset: give facts=congruence.data.facts(dataset)."
            )
        if term.student is not None and term.student not in students:
            near = check.near(term.student, students)
            raise ValueError(f"The term '{term.name}' names no student '{term.student}'.{near}")
        if term.needs.students == "all" and term.student is not None:
            raise ValueError(f"The term '{term.name}' sees all students: leave out student='{term.student}'.")
        if term.needs.students == "all" or term.student is not None or len(students) == 1:
            expanded.append(term)
            continue
        expanded += [term.for_student(student) for student in students]
    names = [term.name for term in expanded]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"Two terms are called '{twice}': give one of them another name, Term(..., name=...).")
    return expanded


def bind(term: Term, taps: Mapping[str, Taps], students: tuple[str, ...], facts: DataFacts | None) -> Binding:
    """Resolve a term's layers, check its needs and build its method."""
    method = term.make()
    if method._bound:
        raise ValueError(
            f"The term '{term.name}' holds a {type(method).__name__} that another distiller built: give it a new one."
        )
    needs = method.needs
    if needs.students == "all":
        models = {name: name for name in students}
    else:
        models = {"student": term.student or students[0]}
    if needs.teacher:
        models["teacher"] = "teacher"
    paths: dict[tuple[str, str], tuple[str, ...]] = {}
    shapes: dict[tuple[str, str], tuple[torch.Size, ...]] = {}
    for role in needs.roles:
        given = {name: term.layers(name, role, needs.roles) for name in models}
        for name, model in models.items():
            try:
                paths[name, role] = given[name] or _default(role, given, needs.stages, models, taps, model)
                taps[model].require(paths[name, role])
                shapes[name, role] = tuple(_shape(role, taps[model].shapes[path]) for path in paths[name, role])
            except ValueError as error:
                raise ValueError(f"The term '{term.name}': {error}") from None
    try:
        method.build(Probe(shapes, paths, {n: taps[m].module("") for n, m in models.items()}, _students(models), facts))
    except ValueError as error:
        where = "; ".join(
            f"{name} {role} {', '.join(f'{p!r} {list(s)}' for p, s in zip(paths[name, role], sizes, strict=True))}"
            for (name, role), sizes in shapes.items()
        )
        raise ValueError(f"The term '{term.name}' does not fit these layers ({where}): {error}") from None
    for model in models.values():
        if shares_parameters(method, taps[model].module("")):
            raise ValueError(
                f"The term '{term.name}' holds a module of the {model} as its own part, which would be trained and "
                f"saved with the term: keep a copy of what it reads there."
            )
    return Binding(term.name, method, _students(models), models, paths)


def described(binding: Binding, taps: Mapping[str, Taps]) -> str:
    """Write which layers a term reads, with their shapes in the dry forward."""
    return ", ".join(
        f"{model} {role} " + " + ".join(f"'{path}' {list(taps[binding.models[model]].shapes[path])}" for path in paths)
        for (model, role), paths in binding.paths.items()
    )


def _default(
    role: str,
    given: Mapping[str, tuple[str, ...] | None],
    stages: int,
    models: Mapping[str, str],
    taps: Mapping[str, Taps],
    model: str,
) -> tuple[str, ...]:
    """Return a model's layers where none are named; of maps as many as on the other side."""
    if role != "maps" or not stages:
        return (taps[model].default(role),)
    named = [len(paths) for paths in given.values() if paths]
    count = named[0] if named else min(stages, *(len(taps[each].stages) or stages for each in models.values()))
    return tuple(taps[model].stages)[-count:] or (taps[model].default(role),)


def probed_in_evaluation(students: Mapping[str, Taps], example: Any) -> dict[str, Taps]:
    """Return taps of the students' forwards in evaluation mode, and let those of training know what they found.

    A student may return other things there: two heads in training, their mean in evaluation. One that cannot run on the
    example in evaluation mode is left out.
    """
    in_evaluation = {}
    for name, taps in students.items():
        with contextlib.suppress(ValueError):
            there = Taps(taps.model, name=name)
            there.probe(example, training=False)
            taps.in_evaluation, in_evaluation[name] = there.defaults, there
    return in_evaluation


def logits_paths(students: Mapping[str, Taps], bindings: Collection[Binding]) -> dict[str, str]:
    """Return the layer that gives each student's class logits in evaluation; those without one are left out.

    That is the output, or the head whose values it has. Where the output is none of a head's, and not as wide as what a
    term reads as logits, it is that term's layer.
    """
    path_of: dict[str, str] = {}
    for name, taps in students.items():
        output, named = taps.defaults.logits, _logits_path(name, bindings)
        for path in (output, named):
            with contextlib.suppress(ValueError):  # a layer that does not run in evaluation
                taps.require([] if path is None else [path])
        shape_of = taps.shapes
        if output is not None and (
            taps.defaults.made_of or named not in shape_of or shape_of[named] == shape_of[output]
        ):
            path_of[name] = output
        elif named in shape_of:
            path_of[name] = named
    return path_of


def _logits_path(model: str, bindings: Iterable[Binding]) -> str | None:
    """Return the layer at which a term reads a model's class logits; one that compares it with labels goes first."""
    candidates: list[tuple[bool, str]] = []
    for binding in bindings:
        for (name, role), paths in binding.paths.items():
            if role == "logits" and binding.models[name] == model:
                candidates.append((binding.method.needs.labels, paths[-1]))
    return max(candidates, key=lambda pair: pair[0])[1] if candidates else None


def _students(models: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(name for name in models if name != "teacher")


def _shape(role: str, shape: torch.Size) -> torch.Size:
    """Return the shape a role has as the method sees it."""
    if role == "features":
        return rows(torch.empty(shape)).shape
    if role == "logits" and len(shape) != 2:
        raise ValueError(f"logits must be [batch, classes], the tapped layer gives {list(shape)}.")
    return shape
