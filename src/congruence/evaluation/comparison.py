"""The results of `compare`: for one student, and for several."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from congruence.core import check
from congruence.core.inputs import STUDENT, TEACHER
from congruence.evaluation.layout import text
from congruence.evaluation.number import Value
from congruence.evaluation.published import published

# Of the table for several students: the key behind "teacher_" and "student_", or of both; title, scale, digits.
_OF_ONE = (
    ("accuracy", "accuracy (%)", 100.0, 1),
    ("top_5_accuracy", "top 5 (%)", 100.0, 1),
    ("ece", "ECE", 1.0, 3),
    ("retrieval_map", "mAP, leave one out (%)", 100.0, 1),
    ("knn_accuracy", "20-NN (%)", 100.0, 1),
    ("linear_probe_accuracy", "linear probe (%)", 100.0, 1),
    ("mean_iou", "mean IoU (%)", 100.0, 1),
    ("position_accuracy", "positions right (%)", 100.0, 1),
    ("mean_average_precision", "mAP of labels (%)", 100.0, 1),
    ("macro_f1", "F1 of labels (%)", 100.0, 1),
)
_OF_BOTH = (
    ("agreement", "agreement (%)", 100.0, 1),
    ("position_agreement", "positions agreed on (%)", 100.0, 1),
    ("label_agreement", "labels agreed on (%)", 100.0, 1),
    ("kl", "KL (nats)", 1.0, 3),
    ("gpcl", "GPCL", 1.0, 3),
    ("cosine_kernel_transfer_error", "kernel error (cosine)", 1.0, 3),
    ("neighbour_overlap_10", "10 neighbours shared (%)", 100.0, 1),
    ("asymmetric_retrieval_map", "mAP in the teacher's index (%)", 100.0, 1),
)
COSTS = (
    ("latency_1_ms", "ms for 1", 1.0, 2),
    ("latency_64_ms", "ms for 64", 1.0, 2),
    ("peak_memory_mb", "peak MB", 1.0, 1),
    ("multiply_adds", "multiply-adds", 1.0, 0),
    ("parameters", "parameters", 1.0, 0),
)
COLUMNS = (*_OF_ONE, *_OF_BOTH, *COSTS)


@dataclass(frozen=True)
class Comparison:
    """How faithful a student is to its teacher; numbers that need labels or logits are None without them.


    Args:
        samples: number of samples compared.
        teacher_accuracy: the teacher's top-1 accuracy, a fraction.
        student_accuracy: the student's top-1 accuracy, a fraction.
        agreement: fraction of samples for which both predict the same class.
        gpcl: global perception coherence of the embeddings, by cosine; above 2,000 samples from three subsets.
        teacher_parameters: number of the teacher's parameters; None for a model that runs outside torch.
        student_parameters: number of the student's parameters.
    `more` has the other numbers of the table (`evaluation.numbers`, including those of packages), each of which is an
    attribute, too; `to_dict` has all.
    `left_out` gives, by key, the reason why a number is None. `classes` has a dict for each class (`class`, `samples`,
    both accuracies, and `phi`, the mean perception coherence of its samples), `worst_classes` the ten that lost the
    most accuracy, and `changed` the twenty samples on whose surroundings the two models agree least: `index` in the
    loader's order, `label`, `teacher_class`, `student_class` and `phi`.
    """

    samples: int
    teacher_accuracy: float | None
    student_accuracy: float | None
    agreement: float | None
    gpcl: float
    teacher_parameters: int | None
    student_parameters: int | None
    classes: list[dict[str, Any]] = field(init=False, default_factory=list, hash=False)
    worst_classes: list[dict[str, Any]] = field(init=False, default_factory=list, hash=False)
    changed: list[dict[str, Any]] = field(init=False, default_factory=list, hash=False)
    left_out: dict[str, str] = field(init=False, default_factory=dict, hash=False)
    more: dict[str, Value] = field(init=False, default_factory=dict, hash=False)

    def __getattr__(self, name: str) -> Value:
        more: dict[str, Value] = self.__dict__.get("more", {})
        if name in more:
            return more[name]
        raise AttributeError(f"A comparison has no number '{name}'.{check.near(name, more)}")

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        values = asdict(self)
        return values | values.pop("more")

    def to_json(self) -> str:
        """Return everything as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def table(self) -> str:
        """Return a Markdown table with a line for the teacher and one for the student: see `Comparisons.table`."""
        return Comparisons({STUDENT: self}).table()


class Comparisons(Mapping[str, Comparison]):
    """Several students compared with one teacher on the same samples, by name.

    Example:
        >>> found = Comparisons({"small": Comparison(9, 0.5, 0.25, 0.5, 0.75, 40, 10)})
        >>> list(found), found["small"].gpcl, found.to_dict()["teacher"]["accuracy"]
        (['small'], 0.75, 0.5)
    """

    def __init__(self, students: Mapping[str, Comparison]) -> None:
        self._students = dict(students)

    def __getitem__(self, name: str) -> Comparison:
        return self._students[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._students)

    def __len__(self) -> int:
        return len(self._students)

    def __repr__(self) -> str:
        return f"Comparisons({self._students!r})"

    def to_dict(self) -> dict[str, Any]:
        """Return {"teacher": its numbers, "students": {name: numbers}}, as plain values.

        The teacher's keys have no prefix "teacher_"; the students' numbers are those of `Comparison.to_dict`.
        """
        students: dict[str, Any] = {}
        teacher: dict[str, Any] = {}
        reasons: dict[str, str] = {}
        for name, comparison in self.items():
            values = comparison.to_dict()
            of_teacher, of_student = _apart(values)
            left_out, of_student["left_out"] = _apart(values["left_out"])
            for key, value in of_teacher.items():
                teacher[key] = value if teacher.get(key) is None else teacher[key]
            reasons |= left_out
            students[name] = of_student
        teacher["left_out"] = {key: why for key, why in reasons.items() if teacher.get(key) is None}
        return {TEACHER: teacher, "students": students}

    def to_json(self) -> str:
        """Return `to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def table(self) -> str:
        """Return a Markdown table with a line for the teacher and for each student; "–" for missing numbers.

        Example:
            >>> print(Comparisons({"small": Comparison(9, 0.5, 0.25, 0.5, 0.75, 4000, 10)}).table())
            |         | accuracy (%) | agreement (%) |  GPCL | parameters |
            |---------|-------------:|--------------:|------:|-----------:|
            | teacher |         50.0 |             – |     – |      4,000 |
            | small   |         25.0 |          50.0 | 0.750 |         10 |
        """
        found = self.to_dict()
        rows = {TEACHER: found[TEACHER]}
        for name, values in found["students"].items():
            own = {key.removeprefix(f"{STUDENT}_"): value for key, value in values.items()}
            rows[name] = own
        known = {column[0] for column in COLUMNS}
        of_protocols = [(key, number) for key in rows[TEACHER] if key not in known and (number := published(key))]
        more = tuple((key, number.title or key, number.scale, number.digits) for key, number in of_protocols)
        asked = (*_OF_ONE, *more, *_OF_BOTH, *COSTS)
        columns = [column for column in asked if any(row.get(column[0]) is not None for row in rows.values())]
        lines = [["", *(title for _, title, _, _ in columns)]]
        for name, row in rows.items():
            lines.append([name, *(_cell(row.get(key), scale, digits) for key, _, scale, digits in columns)])
        return text(lines)


def _apart(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the numbers of the teacher alone, with keys without "teacher_", and the rest."""
    prefix = f"{TEACHER}_"
    own = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
    return own, {key: value for key, value in values.items() if not key.startswith(prefix)}


def _cell(value: float | None, scale: float, digits: int) -> str:
    return "–" if value is None else f"{value * scale:,.{digits}f}"
