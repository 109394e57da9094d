"""A student's numbers on the test split, which is read here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from congruence.data.datasets.images import ImageDataset
from congruence.data.datasets.model_facts import ModelFacts, check_same_classes, other_classes, remembered
from congruence.data.loading.loader import loader
from congruence.data.sources.load import Splits
from congruence.evaluation.embed import Embedded, beside, embed, tell_left_out
from congruence.evaluation.embeddings import Embeddings
from congruence.evaluation.number import Number, Value
from congruence.evaluation.numbers import numbers_in
from congruence.models.parameters import count_parameters

BATCH = 100
OTHER_CLASSES = "the teacher knows other classes"


@dataclass(frozen=True)
class Measurement:
    """Test numbers of one model by key, each an attribute too; those that cannot be had are None.

    `evaluation.numbers` is the table of them, with functions whose docstrings have the units.

    Example:
        >>> Measurement({"accuracy": 0.5}).accuracy
        0.5
    """

    numbers: Mapping[str, Value]

    def __getattr__(self, key: str) -> Value:
        # Python asks here only for what is no field; while a copy is made, the field itself is not there yet.
        numbers = self.__dict__.get("numbers", {})
        if key in numbers:
            return numbers[key]
        raise AttributeError(f"A measurement has no number '{key}', only {', '.join(numbers)}.")

    def to_dict(self) -> dict[str, Value]:
        """Return the numbers as plain values."""
        return dict(self.numbers)


def measure(
    student: nn.Module,
    splits: Splits,
    *,
    teacher: nn.Module | Embedded | None = None,
    own: Sequence[Number] = (),
    classifies: bool = True,
    device: str | torch.device | None = None,
) -> Measurement:
    """Measure a model on the test split.

    Args:
        student: the model.
        splits: of `congruence.data.load`; all labels of the training split serve the retrieval database.
        teacher: with which the numbers that need one are measured, or what `embed_test` gave of it; None leaves them
            out.
        own: further numbers.
        classifies: False for a student whose terms teach no class: it has no accuracy.
        device: to which the models are moved; None for where they are.

    Returns:
        Measurement: the numbers that the table shows of a run.

    Raises:
        ValueError: for a student of `load_student` that was trained on images prepared otherwise, or on classes of
            other names or another order. A teacher of other classes has no number of classes.
    """
    if classifies:
        check_same_classes(student, ModelFacts.of(splits.train))
    numbers = (*numbers_in("run").values(), *own)
    of = embeddings_on_test(student, splits, numbers, teacher=teacher, device=device, classifies=classifies)
    facts = {"parameters": count_parameters(student)}
    return Measurement(measured(numbers, of, facts=facts, classifies=classifies))


def measured(
    numbers: Iterable[Number],
    of: Embeddings | None,
    *,
    facts: Mapping[str, Value] | None = None,
    classifies: bool = True,
) -> dict[str, Value]:
    """Measure rows, in their order.

    Args:
        numbers: the rows.
        of: what they are measured on; None where it cannot be had, nor the numbers.
        facts: the numbers that are known without embeddings.
        classifies: False of a student whose terms teach no class.

    Raises:
        ValueError: for embeddings or logits that are not finite, with the model and the number of samples.
    """
    values: dict[str, Value] = {}
    if of is not None:
        of.require_finite("measure", own="model")
    for number in numbers:
        if number.function is None:
            values[number.key] = (facts or {}).get(number.key)
        elif of is None or (number.of_classes and not classifies):
            values[number.key] = None
        else:
            values |= number.measure(of)
    return values


def embed_test(model: nn.Module, splits: Splits, *, device: str | torch.device | None = None) -> Embedded:
    """Embed the test split as `measure` does, once for all students that are measured against it."""
    return _teacher_on_test(model, splits, device)


def embeddings_on_test(
    student: nn.Module,
    splits: Splits,
    numbers: Iterable[Number],
    *,
    teacher: nn.Module | Embedded | None = None,
    device: str | torch.device | None = None,
    classifies: bool = True,
) -> Embeddings:
    """Embed the test split by a student and its teacher, and the training split where a number needs it.

    Of a student that does not classify, nobody is told that it has no numbers of classes.
    """
    test = _embedded(student, splits.test, "student", device)
    database = None
    if any("database" in number.needs for number in numbers):
        database = _embedded(student, splits.train, "student", device)
    if isinstance(teacher, nn.Module):
        teacher = _teacher_on_test(teacher, splits, device)
    tell_left_out({"student": test if classifies else None, "teacher": teacher})
    return beside(test, teacher, database=database)


def _embedded(model: nn.Module, part: ImageDataset, name: str, device: str | torch.device | None) -> Embedded:
    return embed(model, loader(part, batch_size=BATCH, shuffle=False), name=name, device=device)


def _teacher_on_test(model: nn.Module, splits: Splits, device: str | torch.device | None) -> Embedded:
    """Embed the test split by a teacher; where its classes are not those of the data, its logits say nothing of it."""
    found = _embedded(model, splits.test, "teacher", device)
    return found if _same_classes(model, splits.train, found) else found.without_classes(OTHER_CLASSES)


def knows_classes(model: nn.Module, part: ImageDataset) -> bool:
    """Whether a model tells apart the classes of some images, by their names where these are known, and their number.

    Example:
        >>> from congruence.data import ArrayDataset
        >>> images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
        >>> part = ArrayDataset(images, torch.arange(4) % 2, classes=2, mean=[0.0], std=[1.0])
        >>> [knows_classes(nn.Sequential(nn.Flatten(), nn.Linear(4, width)), part) for width in (2, 1000)]
        [True, False]
    """
    return _same_classes(model, part, embed(model, [part.batch(range(min(2, len(part))))]))


def _same_classes(model: nn.Module, part: ImageDataset, found: Embedded) -> bool:
    known = remembered(model)
    if known is not None and other_classes(known[0], ModelFacts.of(part)) is not None:
        return False
    return found.logits is None or part.classes in (None, found.logits.shape[1])
