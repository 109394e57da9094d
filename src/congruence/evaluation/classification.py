"""Classification: top-1 and top-5 accuracy on the test samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from congruence.evaluation.compared import top_5_accuracy
from congruence.evaluation.embeddings import Embeddings
from congruence.evaluation.number import Value
from congruence.evaluation.protocol import Fitted, Protocol, ProtocolData
from congruence.evaluation.published import rows

_FIVE = 5


@dataclass(frozen=True)
class Classification(Protocol):
    """Top-1 accuracy (`accuracy`, which every run has), and `top_5_accuracy` if there are more than five classes.

    Example:
        >>> from congruence.data import load
        >>> fitted = Classification().fit(ProtocolData(load("digits"), "digits"))
        >>> [number.key for number in fitted.numbers]
        ['top_5_accuracy']
    """

    kind: ClassVar[str] = "classification"

    def fit(self, data: ProtocolData) -> Fitted:
        """Return the protocol on data whose test classes are training classes.


        Raises:
            ValueError: if they are not, or no test sample has a label.
        """
        labels, classes = self.test_labels(data), data.splits.train.classes
        if classes is None or int(labels.max()) >= classes or self.of_new_classes(data):
            raise self.refuse("test samples of the classes that are trained on", data, "them of others")
        several = classes > _FIVE
        return Fitted(self.kind, rows(["top_5_accuracy"] if several else []), _measure, of_classes=True)


def _measure(of: Embeddings, _: Mapping[str, Tensor]) -> dict[str, Value]:
    if of.missing(("labels", "every_label", "six_classes")):
        return {}
    return {"top_5_accuracy": top_5_accuracy(of)}
