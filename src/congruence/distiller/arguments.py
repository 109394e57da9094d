"""The arguments of a distiller: students by name, frozen teachers, and the list of terms."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from congruence.core import check, names
from congruence.core.batch import why_no_index
from congruence.core.inputs import STUDENT, TEACHER, check_rows_agree, inputs_of
from congruence.distiller.recall import StoredTeacher
from congruence.methods.term import Term
from congruence.models.layers import is_unflattened
from congruence.models.parameters import common_parameters, shares_frozen_alone
from congruence.models.sharded import at_rest
from congruence.models.teacher import Teacher, called, shares_parameters

LOG = logging.getLogger("congruence")
AnyTeacher = nn.Module | Teacher | StoredTeacher


def named_students(student: Any) -> dict[str, nn.Module]:
    """Return the students by name; a single one is called "student".

    Raises:
        ValueError: for anything but modules, or a name that cannot be both a file name and a submodule name.
    """
    students = dict(student) if isinstance(student, Mapping) else {"student": student}
    if not students:
        check.fail("Distiller", "student", "a module, or modules by name", "none")
    for name, module in students.items():
        if not isinstance(module, nn.Module):
            check.fail("Distiller", "student", "a torch module", type(module).__name__)
        if not all(map(_has_modes, module.modules())):
            check.fail(
                "Distiller", "student", "a module that can be trained", "an exported program, which has only one mode"
            )
        if any(isinstance(part, DistributedDataParallel) and part.static_graph for part in module.modules()):
            raise ValueError(
                "`Distiller`: `student` must not be inside DistributedDataParallel(static_graph=True), which does "
                "not average gradients of a loss on layers: leave static_graph out, or wrap the distiller instead."
            )
        if not all(parameter.is_leaf for parameter in module.parameters()):
            check.fail(
                "Distiller",
                "student",
                "a module with parameters of its own",
                "computed parameters, as in a copied ScriptModule",
            )
        taken = name in ("", "teacher") or str(name).endswith("last") or hasattr(nn.ModuleDict(), str(name))
        if not isinstance(name, str) or taken or "." in name or names.wrong(name):
            check.fail("Distiller", "student", "modules under names that are identifiers and not reserved", repr(name))
    same = names.twice(students)
    if same is not None:
        check.fail(
            "Distiller", "student", "modules whose names differ in more than upper and lower case", " and ".join(same)
        )
    return students


def _has_modes(part: nn.Module) -> bool:
    """Whether a part can be put into training mode; programs from `torch.export` refuse."""
    if is_unflattened(part):
        return False
    if isinstance(part, torch.fx.GraphModule):
        try:
            part.train(part.training)
        except NotImplementedError:
            return False
    return True


def named_teachers(teacher: Any, students: Collection[str]) -> dict[str, Any]:
    """Return the teachers, or their caches, by name; a single one is called "teacher".

    Raises:
        ValueError: for an invalid name, or one that a student has.
    """
    if teacher is None:
        return {}
    if not isinstance(teacher, Mapping):
        return {TEACHER: teacher}
    if not teacher:
        check.fail("Distiller", "teacher", "a module, or modules by name", "none")
    for name in teacher:
        if not isinstance(name, str) or name in (STUDENT, *students) or "." in name or names.wrong(name):
            check.fail(
                "Distiller", "teacher", "modules under names that are identifiers and not a student's", repr(name)
            )
    return dict(teacher)


def frozen_teacher(teacher: Any, students: Mapping[str, nn.Module], name: str = TEACHER) -> Teacher:
    """Return a teacher in its wrapper; a teacher that training a student would change raises before it is frozen."""
    if isinstance(teacher, StoredTeacher):
        teacher = teacher.teacher
    if not isinstance(teacher, (nn.Module, Teacher)):
        wanted = "a torch module, a TeacherCache, several of them by name, or None"
        check.fail("Distiller", "teacher", wanted, type(teacher).__name__)
    module = teacher.module if isinstance(teacher, Teacher) else teacher
    common = [_in_common(module, student) for student in students.values()]
    if not isinstance(teacher, Teacher):
        teacher = Teacher(teacher, name=called(name))
    elif name != TEACHER:
        teacher.taps.name = called(name)
    for each in common:
        teacher.shared |= each
    return teacher


def _in_common(teacher: nn.Module, student: nn.Module) -> dict[str, nn.Parameter]:
    """Return the frozen parameters that a teacher shares with a student.

    Raises:
        ValueError: if it shares trainable parameters, or layers, which can be in one mode only.
    """
    if not shares_parameters(teacher, student):
        return {}
    way = "give a copy (copy.deepcopy), or for a student with adapters congruence.models.without_adapters(student)."
    if not shares_frozen_alone(teacher, student):
        raise ValueError(
            "`Distiller`: the teacher shares parameters with a student, so that training the student would move "
            f"the teacher: {way}"
        )
    parts = set(map(id, teacher.modules()))
    if any(id(part) in parts for part in student.modules()):
        raise ValueError(
            "`Distiller`: the teacher shares layers with a student, which would have to be in evaluation mode for "
            "the one and "
            f"in training mode for the other: {way}"
        )
    return common_parameters(teacher, student)


def examples_of(example: Any, students: Iterable[str], teachers: Iterable[str]) -> dict[str, Any]:
    """Return each model's inputs from an example."""
    check_rows_agree(example)
    kinds = dict.fromkeys(students, STUDENT) | dict.fromkeys(teachers, TEACHER)
    return {name: inputs_of(example, name, kind) for name, kind in kinds.items()}


def only(by_name: Mapping[str, Any] | nn.ModuleDict, what: str) -> Any:
    """Return the only entry of a mapping.

    Raises:
        ValueError: if there are several.
    """
    if len(by_name) > 1:
        raise ValueError(f"`Distiller`: there are {len(by_name)} {what}: use `{what}[name]`.")
    return next(iter(by_name.values()))


def check_index(index: Any) -> None:
    """Raise if an index does not hold positions in a dataset."""
    why = why_no_index(index, None, look=False)
    if why:
        check.fail("Distiller.capture", "index", "the samples' positions in the dataset, int64 [B]", why)


def listed_terms(terms: Any) -> list[Term]:
    """Return the terms as a list; a key becomes a `Term` of that key."""
    if isinstance(terms, (str, Term)) or not isinstance(terms, Sequence):
        check.fail("Distiller", "terms", "a list of Terms or keys", repr(terms))
    if not terms:
        check.fail("Distiller", "terms", "at least one Term", "none")
    for term in terms:
        if not isinstance(term, (str, Term)):
            check.fail("Distiller", "terms", "Terms or keys (a Method goes into a Term)", type(term).__name__)
    return [Term(term) if isinstance(term, str) else term for term in terms]


def check_trainable(students: nn.ModuleDict) -> None:
    """Raise if no parameter of the students requires a gradient, as in a model that was a teacher, or its copy."""
    if not any(parameter.requires_grad for parameter in students.parameters()):
        raise ValueError(
            "`Distiller`: no parameter of the student requires a gradient: there is nothing to train (a model that "
            "was a teacher, or a copy of it, is frozen: call student.requires_grad_() first)."
        )


def groups(students: nn.Module, terms: nn.Module, spared: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """Return the trainable parameters in named groups; those exempt from weight decay have a group of their own."""
    at_rest(students)  # after a forward without backward, FSDP's root would give whole copies of its shards
    without = {id(parameter) for parameter in spared}
    found: list[dict[str, Any]] = []
    for name, module in (("students", students), ("terms", terms)):
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        found.append({"name": name, "params": [p for p in trained if id(p) not in without]})
        if kept := [p for p in trained if id(p) in without]:
            found.append({"name": f"{name} without decay", "params": kept, "weight_decay": 0.0})
    return [group for group in found if group["params"]]


def tell_modes(students: nn.ModuleDict) -> None:
    """Warn if a whole student is in evaluation mode while training (`from_pretrained` returns models in it)."""
    for name, student in students.items():
        if not any(part.training for part in student.modules()):
            LOG.warning(
                "The %s is in evaluation mode while the distiller trains: dropout is off, and batch norms do not "
                "update their statistics. Call distiller.train() before the loop, unless this is intended.",
                name,
            )
