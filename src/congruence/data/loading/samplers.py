"""Samplers for batches with exactly k samples of each of their classes or superclasses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from congruence.core.check import COUNT, Constraint, Real, class_labels, fail, floating, hyperparameters
from congruence.core.rng import keyed_generator
from congruence.geometry.clustering import kmeans

LOG = logging.getLogger("congruence")
_CLASSES, _SAMPLES = 202, 203  # Streams of the random generators.
CLUSTERS = 1000  # superclasses, as in the paper

CONSTRAINTS: Mapping[str, Constraint] = {
    "batch_size": COUNT,
    "k": COUNT,
    "clusters": Real(low=1, closed="low", integer=True, optional=True),
    "seed": Real(integer=True),
    "epoch_batches": Real(low=1, closed="low", integer=True, optional=True),
}


class ClassUniformSampler:
    """Plans batches of exactly `k` samples of each of `batch_size / k` different classes (CUR).

    Classes are dealt like cards: a shuffled deck of all classes is dealt to its end before the next begins. So over an
    epoch the numbers of batches with each class differ by at most one, however unequal the class sizes. A class's
    samples are dealt in the same way: the k samples are different, and none is repeated before all samples of the class
    have been used. A class of n < k samples gives each of them ⌊k/n⌋ or ⌈k/n⌉ times. Unlabelled samples (-1) are never
    drawn.
    A batch lists one sample of each class, then a second of each, and so on, so that each of N ranks holds k/N samples
    of every class if N divides k.

    Args:
        labels: int64 [N], the class of each sample of the dataset, -1 if unknown.
        batch_size: size of the global batch, a multiple of `k`.
        k: samples of each class in a batch.
        seed: an epoch is a function of (seed, epoch).
        epoch_batches: length of an epoch; None for as many batches as the labelled samples fill, at least one.

    Raises:
        ValueError: if the classes are fewer than a batch holds, or an argument is not allowed.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, -1])
        >>> sampler = ClassUniformSampler(labels, batch_size=4, k=2)
        >>> len(sampler), [sorted(labels[batch].bincount().tolist())[-2:] for batch in sampler.batches(epoch=0)]
        (1, [[2, 2]])

    Reference:
        Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019, sec. 3.5.

    Deviations:
        The paper only says that classes, and k samples of each, are sampled. Drawing both without replacement is our
        choice; it does not change the distribution of a batch, and covers an epoch evenly.
    """

    def __init__(
        self, labels: Tensor, *, batch_size: int, k: int = 4, seed: int = 0, epoch_batches: int | None = None
    ) -> None:
        name = "ClassUniformSampler"
        class_labels(name, labels=labels)
        groups = _check(name, batch_size=batch_size, k=k, seed=seed, epoch_batches=epoch_batches)
        labels = labels.detach().to("cpu", torch.int64)
        order = labels.argsort(stable=True)
        labelled = order[int((labels < 0).sum()) :]
        counts = labels[labelled].unique(return_counts=True)[1]
        if len(counts) < groups:
            raise ValueError(
                f"`{name}`: a batch of {batch_size} with k={k} holds {groups} classes, but the data has {len(counts)}: "
                f"choose `batch_size` / `k` of at most {len(counts)}."
            )
        self.batch_size = batch_size
        self.k = k
        self.seed = seed
        self._groups = groups
        self._samples_of_class = labelled.split(counts.tolist())
        self._length = epoch_batches or max(1, len(labelled) // batch_size)

    def __len__(self) -> int:
        return self._length

    def batches(self, epoch: int) -> list[Tensor]:
        """Return the positions of each global batch of an epoch."""
        hyperparameters("batches", {"epoch": Real(low=0, closed="low", integer=True)}, epoch=epoch)
        generator = keyed_generator(self.seed, _CLASSES, epoch)
        drawn = deal(len(self._samples_of_class), len(self), self._groups, generator).flatten()
        places = drawn.argsort(stable=True).split(drawn.bincount(minlength=len(self._samples_of_class)).tolist())
        planned = torch.empty(len(drawn), self.k, dtype=torch.int64)
        for number, (samples, slots) in enumerate(zip(self._samples_of_class, places, strict=True)):
            generator = keyed_generator(self.seed, _SAMPLES, epoch, number)
            planned[slots] = samples[deal(len(samples), len(slots), self.k, generator)]
        return list(planned.view(len(self), self._groups, self.k).transpose(1, 2).reshape(len(self), -1))


class SuperclassUniformSampler:
    """Plans batches like `ClassUniformSampler`, with K-means clusters of features instead of classes (SUR).

    No labels are needed; a cluster may contain several classes, and a class may be in several clusters. The clusters do
    not depend on `k`, so several values of k can be compared on the same clusters.

    Args:
        features: [N, D], the teacher's embedding of each sample of the dataset, extracted once.
        batch_size: size of the global batch, a multiple of `k`.
        clusters: number of superclasses, None for the paper's 1000; at most the number of samples (logged).
        k: samples of each superclass in a batch.
        seed: seed of the clusters and of the epochs.
        epoch_batches: length of an epoch; None for as many batches as the samples fill, at least one.

    Attributes:
        superclasses: int64 [N], the cluster of each sample.

    Raises:
        ValueError: if the clusters are fewer than a batch holds, or an argument is not allowed.

    Example:
        >>> features = torch.tensor([[0.0], [0.1], [5.0], [5.1], [9.0], [9.1]])
        >>> sampler = SuperclassUniformSampler(features, batch_size=4, clusters=3, k=2)
        >>> [sorted(sampler.superclasses[batch].bincount().tolist())[-2:] for batch in sampler.batches(epoch=0)]
        [[2, 2]]

    Reference:
        Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019, secs. 3.5 and 4.4.

    Deviations:
        None. The paper's 1000 clusters are for the 32,621 images of MSMT17. If clusters hold fewer than `k` samples on
        average, batches repeat samples, and a warning suggests fewer clusters.
    """

    def __init__(
        self,
        features: Tensor,
        *,
        batch_size: int,
        clusters: int | None = None,
        k: int = 4,
        seed: int = 0,
        epoch_batches: int | None = None,
    ) -> None:
        name = "SuperclassUniformSampler"
        groups = _check(name, batch_size=batch_size, clusters=clusters, k=k, seed=seed, epoch_batches=epoch_batches)
        floating(name, 2, features=features)
        wanted = _fitting(CLUSTERS if clusters is None else clusters, len(features), k=k)
        if wanted < groups:
            fail(name, "clusters", f"at least the {groups} that a batch of {batch_size} with k={k} holds", wanted)
        self.superclasses = kmeans(features, wanted, seed=seed % 2**32)[1].cpu()
        different = len(self.superclasses.unique())
        if different < groups:  # K-means leaves clusters empty if features are equal
            fail(
                name, "features", f"in at least the {groups} clusters that a batch holds", f"only {different} different"
            )
        self._uniform = ClassUniformSampler(
            self.superclasses, batch_size=batch_size, k=k, seed=seed, epoch_batches=epoch_batches
        )

    def __len__(self) -> int:
        return len(self._uniform)

    def batches(self, epoch: int) -> list[Tensor]:
        """Return the positions of each global batch of an epoch."""
        return self._uniform.batches(epoch)


def _fitting(clusters: int, size: int, *, k: int) -> int:
    """Return the number of clusters that the samples can fill, with at least one each; warn if it differs."""
    fitting = min(clusters, size)
    if fitting < clusters:
        LOG.info(
            "SuperclassUniformSampler: %d superclasses instead of the requested %d: there are no more samples.",
            fitting,
            clusters,
        )
    if size < fitting * k:
        LOG.warning(
            "SuperclassUniformSampler: %d superclasses of %d samples hold fewer than k=%d on average, so that batches "
            "repeat samples: ask for at most %d.",
            fitting,
            size,
            k,
            max(1, size // k),
        )
    return fitting


def deal(count: int, hands: int, size: int, generator: torch.Generator) -> Tensor:
    """Deal hands of different cards from shuffled decks of `count` cards, each deck to its end before the next.

    A hand larger than a deck holds every card ⌊size/count⌋ times, and once more those that are dealt to it.

    Returns:
        int64 [hands, size], cards 0 … count-1.

    Example:
        >>> deal(5, 2, 4, torch.Generator()).sort().values.unique().tolist()
        [0, 1, 2, 3, 4]
    """
    whole, rest = divmod(size, count)
    every = torch.arange(count).repeat(whole).expand(hands, -1)
    if rest == 0:
        return every
    decks: list[Tensor] = []
    while len(decks) * count < hands * rest:
        deck = torch.randperm(count, generator=generator)
        begun = len(decks) * count % rest
        if begun:  # a hand begun with the previous deck is completed with other cards
            filling = deck[~torch.isin(deck, decks[-1][-begun:])][: rest - begun]
            deck = torch.cat([filling, deck[~torch.isin(deck, filling)]])
        decks.append(deck)
    rest_of_hands = torch.cat(decks)[: hands * rest] if decks else torch.empty(0, dtype=torch.int64)
    return torch.cat([every, rest_of_hands.view(hands, rest)], 1)


def _check(name: str, *, batch_size: int, k: int, **others: Any) -> int:
    """Check the arguments of both samplers; return the number of groups in a batch."""
    hyperparameters(name, CONSTRAINTS, batch_size=batch_size, k=k, **others)
    if batch_size % k:
        fail(name, "batch_size", f"a multiple of k ({k})", batch_size)
    return batch_size // k
