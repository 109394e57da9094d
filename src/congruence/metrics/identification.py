"""Identification among distractors: whether a picture of the same person is nearer than all pictures of strangers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from congruence.core import check
from congruence.geometry.dissimilarity import DissimilarityName, dissimilarity_blocks

_METRIC = check.Choice(("cosine", "euclidean"))
_CHUNK_ENTRIES = 2**20


@torch.no_grad()
def identification_rate(
    probe: Tensor,
    probe_ids: Tensor,
    gallery: Tensor,
    gallery_ids: Tensor,
    distractors: Tensor,
    *,
    sizes: Sequence[int] | None = None,
    metric: DissimilarityName = "cosine",
    generator: torch.Generator,
) -> dict[int, float]:
    """Rank-1 identification rate with N distractors drawn from a pool, for each N.

    Each gallery item with a probe's identity is a mate. A mate counts as found if it is nearer to the probe than all N
    distractors; a distractor at the same distance counts as nearer. rate(N) is the share of found mates over all pairs
    of a probe and a mate. Gallery items of other identities are not used.
    The pool is shuffled once and its first N items are the distractors, the same for all probes. Smaller sets are
    subsets of larger ones, so the rate never rises with N.

    Shape:
        `probe` [P, D], `probe_ids` [P], `gallery` [G, D], `gallery_ids` [G], `distractors` [M, D].

    Args:
        probe: embeddings.
        probe_ids: integer identities; a negative value means unknown, without mates.
        gallery: embeddings; a picture that is also a probe finds itself, and should be left out.
        gallery_ids: integer identities.
        distractors: embeddings of other people, none of whom is among the probes.
        sizes: values of N, from 1 to M; None: 10, 100, … up to M, or only M if it is below 10.
        metric: "cosine" or "euclidean".
        generator: random generator for the shuffle.

    Returns:
        The rate for each size, in the order of `sizes`. Memory is about 40 max(G + M, 2²⁰) + 16 (P + G + M) D bytes.

    Raises:
        ValueError: for shapes that do not fit, embeddings that are not finite, an argument out of its range, or if no
            probe has a mate.

    Example:
        >>> import torch
        >>> probe, mate, pool = torch.tensor([[0.0]]), torch.tensor([[2.0]]), torch.tensor([[3.0], [9.0], [1.0]])
        >>> ids, draws = torch.tensor([5]), torch.Generator().manual_seed(0)
        >>> identification_rate(probe, ids, mate, ids, pool, sizes=(3,), metric="euclidean", generator=draws)
        {3: 0.0}

    Reference:
        Kemelmacher-Shlizerman et al., The MegaFace Benchmark: 1 Million Faces for Recognition at Scale, CVPR 2016.
    """
    name = "identification_rate"
    check.hyperparameters(name, {"metric": _METRIC}, metric=metric)
    check.floating(name, 2, probe=probe, gallery=gallery, distractors=distractors)
    check.same_width(name, probe=probe, gallery=gallery, distractors=distractors)
    check.class_labels(name, probe_ids=probe_ids, gallery_ids=gallery_ids)
    check.same_rows(name, probe=probe, probe_ids=probe_ids)
    check.same_rows(name, gallery=gallery, gallery_ids=gallery_ids)
    check.finite(name, probe=probe, gallery=gallery, distractors=distractors)
    if not isinstance(generator, torch.Generator):
        check.fail(name, "generator", "a torch.Generator", type(generator).__name__)
    sizes = _sizes(name, sizes, len(distractors))
    steps = sorted(set(sizes))
    shuffled = torch.randperm(len(distractors), generator=generator, device=generator.device)[: steps[-1]]
    pool = distractors[shuffled.to(distractors.device)]
    rows = max(1, _CHUNK_ENTRIES // (len(gallery) + len(pool)))
    identified, pairs = dict.fromkeys(steps, 0), 0
    blocks = (dissimilarity_blocks(probe, others, metric, rows) for others in (gallery, pool))
    for near, far, ids in zip(*blocks, probe_ids.split(rows), strict=True):
        mates = (gallery_ids == ids[:, None]) & (gallery_ids >= 0)
        pairs += int(mates.sum())
        closest, start = torch.full_like(far[:, :1], torch.inf), 0
        for size in steps:
            closest = torch.minimum(closest, far[:, start:size].amin(1, keepdim=True))
            identified[size] += int((mates & (near < closest)).sum())
            start = size
    if not pairs:
        check.fail(name, "gallery_ids", "identities of which a probe has one", "none")
    return {size: identified[size] / pairs for size in sizes}


def _sizes(function: str, sizes: Sequence[int] | None, pool: int) -> list[int]:
    if sizes is None:
        return [10**power for power in range(1, len(str(pool)))] or [pool]
    allowed = check.Real(low=1, high=pool, closed="both", integer=True)
    if not len(sizes):
        check.fail(function, "sizes", "a sequence of integers", "none")
    for size in sizes:
        check.hyperparameters(function, {"sizes": allowed}, sizes=size)
    return list(sizes)
