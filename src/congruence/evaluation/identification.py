"""Identification: whether another picture of the same person is nearer than pictures of N strangers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from congruence.data.datasets.files import FileDataset
from congruence.data.datasets.images import ImageDataset
from congruence.data.sources.folder import list_part
from congruence.data.sources.reid import alike
from congruence.evaluation.embeddings import Embeddings
from congruence.evaluation.number import Value
from congruence.evaluation.protocol import Fitted, Protocol, ProtocolData, check_counts, check_settings
from congruence.evaluation.published import rows
from congruence.geometry.dissimilarity import DissimilarityName
from congruence.metrics import identification_rate


class Roles(NamedTuple):
    """Positions of test samples: the mates that are looked for, the probes, and strangers."""

    mates: Tensor
    probes: Tensor
    strangers: Tensor


@dataclass(frozen=True)
class Identification(Protocol):
    """`rank_1_at_N`: see `metrics.identification_rate`, for N distractors.

    The first test sample of each person is the mate for which its other samples, the probes, search. The distractors
    are the images of a folder, of people who are not in the test part. Without a folder, they are the test samples of a
    random half (by `seed`) of the people with at least two samples, and of all people with one.

    Args:
        sizes: values of N; None: 10, 100, … up to all distractors.
        distractors: a folder of images, with or without subfolders.
        metric: "cosine" or "euclidean".
        seed: seed of the choice of distractors.

    Example:
        >>> from congruence.data import load
        >>> fitted = Identification().fit(ProtocolData(load("digits"), "digits"))
        >>> [number.key for number in fitted.numbers]
        ['rank_1_at_10', 'rank_1_at_100']
    """

    kind: ClassVar[str] = "identification"
    sizes: tuple[int, ...] | None = None
    distractors: str | None = None
    metric: DissimilarityName = "cosine"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sizes is not None:
            check_counts("Identification", "sizes", self.sizes)
        check_settings("Identification", metric=self.metric, seed=self.seed)

    def fit(self, data: ProtocolData) -> Fitted:
        """Return the protocol on data with people of two test samples or more.

        Raises:
            ValueError: if there are none, or too few distractors.
        """
        roles = who_is_who(self.test_labels(data), self.seed, all_known=self.distractors is not None)
        if not len(roles.probes):
            raise self.refuse("a person (a class) with two test samples or more", data, "none")
        parts = {} if self.distractors is None else {"distractors": self._strangers(data, Path(self.distractors))}
        pool = len(parts["distractors"] if parts else roles.strangers)
        least = max(self.sizes or (1,))
        if pool < least:
            way = "" if parts else " of other people in its test part (distractors = 'FOLDER' has more)"
            raise self.refuse(f"{least} distractors or more", data, f"{pool}{way}")
        sizes = self.sizes or tuple(10**power for power in range(1, len(str(pool)))) or (pool,)
        measure = functools.partial(_measure, roles=roles, sizes=sizes, metric=self.metric, seed=self.seed)
        return Fitted(self.kind, rows(f"rank_1_at_{size}" for size in sizes), measure, parts)

    def _strangers(self, data: ProtocolData, folder: Path) -> FileDataset:
        train = data.splits.train
        if not isinstance(train, ImageDataset):
            raise self.refuse("images where `distractors` is a folder of them", data, "others")
        if not folder.is_dir():
            raise ValueError(f"The protocol '{self.kind}': the folder '{folder}' of `distractors` is absent.")
        files = list_part(folder, folder, ()).files
        if not files:
            raise ValueError(f"The protocol '{self.kind}': the folder '{folder}' of `distractors` holds no image.")
        return alike(train, folder, files, "distractors")


def who_is_who(labels: Tensor, seed: int, *, all_known: bool = False) -> Roles:
    """Say which test samples are mates, probes and strangers.

    Args:
        labels: of the test samples, -1 if unknown: such a sample is nobody.
        seed: of which half of the people of two samples or more is looked for.
        all_known: look for all of them.

    Example:
        >>> [part.tolist() for part in who_is_who(torch.tensor([4, 2, 4, 2, 2, 7]), 0)]
        [[1], [3, 4], [0, 2, 5]]
    """
    people, counts = labels[labels >= 0].unique(return_counts=True)
    several = people[counts > 1]
    if not all_known:
        order = torch.randperm(len(several), generator=torch.Generator().manual_seed(seed))
        several = several[order[: (len(several) + 1) // 2]]
    known = torch.isin(labels, several)
    rows_of = [(labels == person).nonzero()[:, 0] for person in several.sort().values]
    empty = torch.zeros(0, dtype=torch.int64)
    mates = torch.cat([rows[:1] for rows in rows_of]) if rows_of else empty
    probes = torch.cat([rows[1:] for rows in rows_of]).sort().values if rows_of else empty
    return Roles(mates, probes, ((labels >= 0) & ~known).nonzero()[:, 0])


def _measure(
    of: Embeddings,
    further: Mapping[str, Tensor],
    *,
    roles: Roles,
    sizes: tuple[int, ...],
    metric: DissimilarityName,
    seed: int,
) -> dict[str, Value]:
    features, labels = of.student_features, of.labels
    if labels is None:
        return {}
    found = identification_rate(
        features[roles.probes],
        labels[roles.probes],
        features[roles.mates],
        labels[roles.mates],
        further.get("distractors", features[roles.strangers]),
        sizes=sizes,
        metric=metric,
        generator=torch.Generator().manual_seed(seed),
    )
    return {f"rank_1_at_{size}": rate for size, rate in found.items()}
