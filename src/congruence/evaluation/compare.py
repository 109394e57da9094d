"""What was lost: a teacher and a student on the same samples."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import nn

from congruence.core import check
from congruence.data.datasets.model_facts import ModelFacts, check_same_classes, unrelated_classes
from congruence.evaluation.embed import beside, embed_all, tell_left_out
from congruence.evaluation.measure import OTHER_CLASSES, measured
from congruence.evaluation.number import Value
from congruence.evaluation.numbers import numbers_in
from congruence.models.parameters import count_parameters


@dataclass(frozen=True)
class Comparison:
    """How faithful a student is to its teacher; numbers that need labels or logits are None without them.

    Args:
        samples: compared.
        teacher_accuracy: top-1, a fraction.
        student_accuracy: top-1, a fraction.
        agreement: fraction of samples to which both give the same class.
        gpcl: global perception coherence of the embeddings, by cosine.
        teacher_parameters: of the teacher.
        student_parameters: of the student.

    `more` has the numbers of the table beyond these (a package's); `to_dict` has them too.
    """

    samples: int
    teacher_accuracy: float | None
    student_accuracy: float | None
    agreement: float | None
    gpcl: float
    teacher_parameters: int
    student_parameters: int
    more: dict[str, Value] = field(init=False, default_factory=dict, hash=False)

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the numbers as plain values."""
        values = asdict(self)
        return values | values.pop("more")

    def to_json(self) -> str:
        """Return the numbers as JSON."""
        return json.dumps(self.to_dict(), indent=2)


def compare(
    teacher: nn.Module,
    student: nn.Module,
    loader: Iterable[Any],
    *,
    teacher_layer: str | None = None,
    student_layer: str | None = None,
    device: str | torch.device | None = None,
) -> Comparison:
    """Compare a student with its teacher on the samples of a loader.

    Args:
        teacher: the large model.
        student: the small one.
        loader: of batches as `fit` takes them; read once.
        teacher_layer: the layer that gives the teacher's embedding; by default what enters the last Linear.
        student_layer: the same for the student.
        device: to which both are moved; None for where they are.

    Returns:
        Comparison: see there for units.

    Raises:
        ValueError: for a layer that is not there, a loader that is empty, embeddings or logits that are not finite, or
            a model of `load_student` that was trained on images prepared otherwise, or on classes of other names or
            another order. A teacher of other classes altogether is let pass, without its accuracy and agreement.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> compare(model, model, [(torch.randn(6, 4), torch.arange(6) % 3)]).agreement
        1.0
    """
    for argument, model in (("teacher", teacher), ("student", student)):
        if not isinstance(model, nn.Module):
            check.fail("compare", argument, "a torch module", type(model).__name__)
    facts = ModelFacts.of(loader)
    check_same_classes(student, facts, more=True)
    unrelated = unrelated_classes(teacher, facts)
    if not unrelated:
        check_same_classes(teacher, facts, more=True)
    layers = {"teacher": teacher_layer, "student": student_layer}
    embedded = embed_all({"teacher": teacher, "student": student}, loader, layers=layers, device=device)
    if unrelated:
        embedded["teacher"] = embedded["teacher"].without_classes(OTHER_CLASSES)
    tell_left_out(embedded)
    pair = beside(embedded["student"], embedded["teacher"])
    pair.require_finite("compare")
    sides = {"teacher": (beside(embedded["teacher"]), teacher), "student": (beside(embedded["student"]), student)}
    values: dict[str, Value] = {"samples": len(pair.student_features)}
    for number in numbers_in("compare").values():
        if "teacher" in number.needs:
            values |= measured([number], pair)
        else:
            for side, (of, model) in sides.items():
                of_side = measured([number], of, facts={"parameters": count_parameters(model)})
                values |= {f"{side}_{key}": value for key, value in of_side.items()}
    own_fields: dict[str, Any] = {entry.name: values.pop(entry.name) for entry in fields(Comparison) if entry.init}
    comparison = Comparison(**own_fields)
    comparison.more.update(values)
    return comparison
