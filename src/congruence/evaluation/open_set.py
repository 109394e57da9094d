"""An open set: classes without training samples, distinguished by nearest neighbours among the test samples."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from congruence.evaluation.embeddings import Embeddings, given
from congruence.evaluation.number import Value
from congruence.evaluation.protocol import Fitted, Protocol, ProtocolData, check_counts, check_settings
from congruence.evaluation.published import rows
from congruence.geometry.dissimilarity import DissimilarityName
from congruence.metrics import recall_at_k


@dataclass(frozen=True)
class OpenSet(Protocol):
    """`recall_at_K`: the share of test samples with a sample of their class among their K nearest others.

    Args:
        ks: values of K.
        metric: "euclidean" or "cosine".

    Example:
        >>> from congruence.data import load
        >>> fitted = OpenSet().fit(ProtocolData(load("digits", test_classes=4), "digits"))
        >>> [number.key for number in fitted.numbers]
        ['recall_at_1', 'recall_at_2', 'recall_at_4', 'recall_at_8']
    """

    kind: ClassVar[str] = "open-set"
    ks: tuple[int, ...] = (1, 2, 4, 8)
    metric: DissimilarityName = "euclidean"

    def __post_init__(self) -> None:
        check_counts("OpenSet", "ks", self.ks)
        check_settings("OpenSet", metric=self.metric)

    def fit(self, data: ProtocolData) -> Fitted:
        """Return the protocol on data whose test classes are new.

        Raises:
            ValueError: if they are not, or there are fewer than two labelled test samples.
        """
        labels = self.test_labels(data)
        if data.splits.train.labels is not None and not self.of_new_classes(data):
            where = "them among those of the training (data.test_classes = N holds N classes out)"
            raise self.refuse("test samples of classes that are not trained on", data, where)
        count = int((labels >= 0).sum())
        if count < 2:
            raise self.refuse("two labelled test samples or more", data, str(count))
        measure = functools.partial(_measure, ks=self.ks, metric=self.metric)
        return Fitted(self.kind, rows(f"recall_at_{k}" for k in self.ks), measure)


def _measure(
    of: Embeddings, _: Mapping[str, Tensor], *, ks: tuple[int, ...], metric: DissimilarityName
) -> dict[str, Value]:
    found = recall_at_k(of.student_features, given(of.labels), ks=ks, metric=metric)
    return {f"recall_at_{k}": value for k, value in zip(ks, found, strict=True)}
