"""A student's numbers on the test split, which is read only here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from congruence.core.inputs import STUDENT, TEACHER, inputs_of
from congruence.data.datasets.batched import BatchDataset
from congruence.data.datasets.model_facts import ModelFacts, check_same_classes, other_classes, remembered
from congruence.data.sources.load import Splits
from congruence.evaluation.embed import Embedded, beside, embed, embed_images, tell_left_out
from congruence.evaluation.embeddings import Embeddings
from congruence.evaluation.kept import KeptRows
from congruence.evaluation.number import Number, Value
from congruence.evaluation.numbers import measured_in, numbers_in
from congruence.evaluation.protocol import Fitted
from congruence.models.parameters import count_parameters
from congruence.models.teacher import called

OTHER_CLASSES = "the teacher knows other classes"
_LABEL_FREE = ("neighbour_overlap", "linear_cka")  # diagnostics used instead of numbers that need labels
_NOTHING: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class Measurement:
    """Test numbers of one model by key, also available as attributes; unavailable numbers are None.

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


class Seen(NamedTuple):
    """A model, and its outputs for the test split and, if a number needs a retrieval database, for the training split.

    `name` is the model's name in messages, `further` its features of further samples of a protocol.
    """

    model: nn.Module
    test: Embedded
    train: Embedded | None = None
    name: str = "student"
    further: Mapping[str, Tensor] = _NOTHING

    def as_teacher(self, splits: Splits) -> Embedded:
        """Return the test split as a teacher's, without logits if the teacher's classes are not those of the data."""
        same = _same_classes(self.model, splits.train, self.test)
        return self.test if same else self.test.without_classes(OTHER_CLASSES)


def see(
    model: nn.Module,
    splits: Splits,
    numbers: Iterable[Number] = (),
    *,
    name: str = STUDENT,
    kind: str = STUDENT,
    device: str | torch.device | None = None,
    kept: KeptRows | None = None,
    protocol: Fitted | None = None,
) -> Seen:
    """Run a model once over each image of the test split and, if a number needs them, of the training split.


    Args:
        model: a student, or a teacher.
        splits: the data.
        numbers: the numbers to be measured.
        name: the model's name in messages and in the `Inputs` of a batch.
        kind: "student" or "teacher": the entry of `Inputs` that is used if there is none under the model's name.
        device: device to which the model is moved; None leaves it where it is.
        kept: the folder of kept rows, which are read or written.
        protocol: a protocol to be measured, possibly with further samples.
    """
    asked: dict[str, Any] = {"name": name, "kind": kind, "device": device, "kept": kept}
    if not all(part.told for part in splits):
        asked["kept"] = None  # nothing would tell whether rows are of these samples
    test = embed_images(model, splits.test, **asked)
    train, further = None, {}
    if any("database" in number.needs for number in numbers) or (protocol is not None and protocol.database):
        train = embed_images(model, splits.train, **asked)
    for part, samples in ({} if protocol is None else protocol.parts).items():
        inputs = getattr(splits.test, "inputs", None)  # as each model takes the test split
        taken = samples.for_models(**inputs) if isinstance(inputs, Mapping) else samples
        further[part] = embed_images(model, taken, **asked).features
    return Seen(model, test, train, called(name) if kind == TEACHER else name, further)


def measure(
    student: nn.Module,
    splits: Splits,
    *,
    teacher: nn.Module | Embedded | None = None,
    own: Sequence[Number] = (),
    classifies: bool = True,
    device: str | torch.device | None = None,
    exact: bool = False,
    protocol: Fitted | None = None,
) -> Measurement:
    """Measure a model on the test split.

    Args:
        student: the model.
        splits: the result of `congruence.data.load`; all labels of the training split are used for the retrieval
            database.
        teacher: the teacher, or its result of `embed_test`, for the numbers that need one; None leaves these out.
        own: further numbers.
        classifies: False for a student that no term trained as a classifier: it gets no accuracy.
        device: device to which the models are moved; None leaves them where they are.
        exact: also measure numbers that are computed only on request: W2² by the exact plan, which may take minutes.
        protocol: a protocol whose numbers are also measured (`congruence.evaluation.protocols`), fitted to these
            splits.

    Returns:
        Measurement: the numbers that the table shows for a run.

    Raises:
        ValueError: for a student from `load_student` whose training images were prepared differently, or whose classes
            have other names or another order. For a teacher with other classes, numbers that need classes are left out.
    """
    if classifies:
        check_same_classes(student, ModelFacts.of(splits.train))
    numbers = run_numbers(own, exact=exact, labelled=has_labels(splits.test))
    seen = see(student, splits, numbers, device=device, protocol=protocol)
    if isinstance(teacher, nn.Module):
        teacher = embed_test(teacher, splits, device=device)
    return measure_seen(seen, numbers, teacher=teacher, classifies=classifies, protocol=protocol)


def run_numbers(own: Sequence[Number] = (), *, exact: bool = False, labelled: bool = True) -> tuple[Number, ...]:
    """Return the numbers by which a run's student is measured.

    Args:
        own: further numbers.
        exact: include numbers that are measured only on request.
        labelled: whether a test sample has a label; otherwise, numbers that need labels are replaced by the share of
            common neighbours and CKA.
    """
    rows = numbers_in("run").values() if exact else measured_in("run")
    there = {number.key for number in rows}
    free = () if labelled else [numbers_in("diagnostics")[key] for key in _LABEL_FREE if key not in there]
    return (*rows, *free, *own)


def has_labels(part: BatchDataset) -> bool:
    """Whether a sample has a label.

    Example:
        >>> from congruence.data import load
        >>> has_labels(load("digits").test)
        True
    """
    return part.labels is not None and bool((part.labels >= 0).any())


def measure_seen(
    seen: Seen,
    numbers: Sequence[Number],
    *,
    teacher: Embedded | None = None,
    classifies: bool = True,
    protocol: Fitted | None = None,
) -> Measurement:
    """Measure a model from its outputs; see `measure`."""
    of = of_seen(seen, teacher, classifies=classifies)
    facts = {"parameters": count_parameters(seen.model)}
    values = measured(numbers, of, facts=facts, classifies=classifies)
    if protocol is not None:
        values |= protocol.measure(of, seen.further, classifies=classifies)
    return Measurement(values)


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
        of: the embeddings; None if they are unavailable, and so the numbers.
        facts: the numbers that are known without embeddings.
        classifies: False for a student that no term trained as a classifier.

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


def embed_test(
    model: nn.Module, splits: Splits, *, device: str | torch.device | None = None, kept: KeptRows | None = None
) -> Embedded:
    """Embed the test split as `measure` does, once for all students that are measured against it."""
    return see(model, splits, name=TEACHER, kind=TEACHER, device=device, kept=kept).as_teacher(splits)


def of_seen(seen: Seen, teacher: Embedded | None = None, *, classifies: bool = True) -> Embeddings:
    """Return the embeddings on which numbers are measured:

    a model's and its teacher's of the test split. For a student that is no classifier, no message says that its class
    numbers are missing.
    """
    tell_left_out({seen.name: seen.test if classifies else None, "teacher": teacher})
    return beside(seen.test, teacher, database=seen.train)


def knows_classes(model: nn.Module, part: BatchDataset, name: str = TEACHER) -> bool:
    """Whether a teacher has the classes of some samples, judged by their names if known, and their number.

    Example:
        >>> from congruence.data import ArrayDataset
        >>> images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
        >>> part = ArrayDataset(images, torch.arange(4) % 2, classes=2, mean=[0.0], std=[1.0])
        >>> [knows_classes(nn.Sequential(nn.Flatten(), nn.Linear(4, width)), part) for width in (2, 1000)]
        [True, False]
    """
    return _same_classes(model, part, embed(model, [inputs_of(part.example(), name, TEACHER)]))


def _same_classes(model: nn.Module, part: BatchDataset, found: Embedded) -> bool:
    known = remembered(model)
    if known is not None and other_classes(known[0], ModelFacts.of(part)) is not None:
        return False
    return found.logits is None or part.classes in (None, found.logits.shape[1])
