"""`Protocol`, the test numbers that are published for a kind of task, and `Fitted`, a protocol fitted to its data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from congruence.core import check
from congruence.data.datasets.batched import BatchDataset
from congruence.data.sources.load import Splits
from congruence.evaluation.embeddings import Embeddings
from congruence.evaluation.number import Number, Value
from congruence.geometry.dissimilarity import DissimilarityName

METRIC: Mapping[str, check.Constraint] = {"metric": check.Choice(("cosine", "euclidean"))}
_WHOLE: Mapping[str, check.Constraint] = {"seed": check.Real(low=0, closed="low", integer=True)}


@dataclass(frozen=True)
class ProtocolData:
    """What a protocol is tried on: the parts, the name of a dataset (of the table, or for sentences), and its root."""

    splits: Splits
    name: str
    root: str | None = None


@dataclass(frozen=True)
class Fitted:
    """A protocol on its data.

    Args:
        kind: of the protocol.
        numbers: how its numbers are shown, in their order.
        function: from what a model gives of the test part, and its features of `parts` by name, to the numbers by key.
        parts: further samples that each model sees.
        database: whether models see the training part too.
        of_classes: whether it means nothing of a student whose terms teach no class.
    """

    kind: str
    numbers: tuple[Number, ...]
    function: Callable[[Embeddings, Mapping[str, Tensor]], Mapping[str, Value]]
    parts: Mapping[str, BatchDataset] = field(default_factory=dict)
    database: bool = False
    of_classes: bool = False

    def measure(
        self, of: Embeddings | None, further: Mapping[str, Tensor], *, classifies: bool = True
    ) -> dict[str, Value]:
        """Return all numbers, None if they cannot be had.

        Args:
            of: what the model gives of the test part; None if nothing was seen.
            further: its features of `parts`.
            classifies: False of a student whose terms teach no class.
        """
        found: Mapping[str, Value] = {}
        if of is not None and (classifies or not self.of_classes):
            found = self.function(of, further)
        return {number.key: found.get(number.key) for number in self.numbers}


class Protocol(ABC):
    """How test numbers are published for a kind of task: a frozen dataclass of its settings."""

    kind: ClassVar[str]

    @abstractmethod
    def fit(self, data: ProtocolData) -> Fitted:
        """Return the protocol on data.

        Raises:
            ValueError: if it does not fit the data.
        """

    def refuse(self, needs: str, data: ProtocolData, has: str) -> ValueError:
        """Return the error of a protocol that does not fit."""
        return ValueError(f"The protocol '{self.kind}' needs {needs}, and the data '{data.name}' has {has}.")

    def test_labels(self, data: ProtocolData) -> Tensor:
        """Return the labels of the test part.

        Raises:
            ValueError: if it has none.
        """
        labels = data.splits.test.labels
        if labels is None or not bool((labels >= 0).any()):
            raise self.refuse("labelled test samples", data, "none")
        return labels

    def of_new_classes(self, data: ProtocolData) -> bool:
        """Whether no test sample has a class that is trained on, of the classes that samples have."""
        test, train = data.splits.test.labels, data.splits.train.labels
        if test is None or train is None:
            return False
        return not set(test[test >= 0].tolist()) & set(train[train >= 0].tolist())


def check_counts(name: str, argument: str, counts: tuple[int, ...]) -> None:
    """Check settings that are several whole numbers from 1 on."""
    wrong = next((each for each in counts if not check.COUNT.accepts(each)), None)
    if not counts or wrong is not None:
        check.fail(name, argument, "integers >= 1, at least one", "none" if wrong is None else wrong)
    if len(set(counts)) < len(counts):
        check.fail(name, argument, "integers that differ", list(counts))


def check_settings(name: str, *, metric: DissimilarityName | None = None, seed: int | None = None) -> None:
    """Check settings that several protocols have."""
    if metric is not None:
        check.hyperparameters(name, METRIC, metric=metric)
    if seed is not None:
        check.hyperparameters(name, _WHOLE, seed=seed)
