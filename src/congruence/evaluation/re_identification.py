"""Person re-identification: finding a person from one camera in the pictures of other cameras."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from congruence.data.datasets.images import ImageDataset
from congruence.data.sources.people import PEOPLE
from congruence.data.sources.reid import Sides, read_sides
from congruence.evaluation.embeddings import Embeddings
from congruence.evaluation.number import Value
from congruence.evaluation.protocol import Fitted, Protocol, ProtocolData, check_counts, check_settings
from congruence.evaluation.published import rows
from congruence.geometry.dissimilarity import DissimilarityName
from congruence.metrics import reid_evaluate


@dataclass(frozen=True)
class ReIdentification(Protocol):
    """`rank_K`, the share of queries with a match among their first K, and `reid_map`: see `metrics.reid_evaluate`.

    For each query, gallery pictures of the same person by the same camera are left out, and for all queries those
    without a whole person. Data in the layouts of Market-1501 and MSMT17 is measured this way by default.

    Args:
        ranks: values of K.
        metric: "euclidean" or "cosine".

    Example:
        >>> ReIdentification(ranks=(1,))
        ReIdentification(ranks=(1,), metric='euclidean')
    """

    kind: ClassVar[str] = "re-identification"
    ranks: tuple[int, ...] = (1, 5, 10)
    metric: DissimilarityName = "euclidean"

    def __post_init__(self) -> None:
        check_counts("ReIdentification", "ranks", self.ranks)
        check_settings("ReIdentification", metric=self.metric)

    def fit(self, data: ProtocolData) -> Fitted:
        """Return the protocol on data with queries, a gallery and cameras; the queries are the test part.

        Raises:
            ValueError: if these are not known of the data.
        """
        train, queries = data.splits.train, data.splits.test
        if data.name not in PEOPLE or not isinstance(train, ImageDataset):
            needs = f"queries, a gallery and their cameras, as {' and '.join(PEOPLE)} have them"
            raise self.refuse(needs, data, "none")
        sides = read_sides(data.name, data.root, train)
        if len(sides.query) != len(queries):
            raise self.refuse(f"its {len(sides.query)} queries as test part", data, f"{len(queries)} images there")
        keys = [*(f"rank_{k}" for k in self.ranks), "reid_map"]
        measure = functools.partial(_measure, sides=sides, ranks=self.ranks, metric=self.metric)
        return Fitted(self.kind, rows(keys), measure, {"gallery": sides.gallery})


def _measure(
    of: Embeddings,
    further: Mapping[str, Tensor],
    *,
    sides: Sides,
    ranks: tuple[int, ...],
    metric: DissimilarityName,
) -> dict[str, Value]:
    who = sides.query_ids, sides.gallery_ids, sides.query_cameras, sides.gallery_cameras
    found = reid_evaluate(of.student_features, further["gallery"], *who, metric=metric, max_rank=max(ranks))
    return {**{f"rank_{k}": float(found.cmc[k - 1]) for k in ranks}, "reid_map": found.map}
