"""Estimates from subsets of the samples, for what cannot be computed on all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from congruence.core import check


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The result of `estimate`: the mean over the subsets and their standard deviation (n − 1; 0 for one subset)."""

    mean: float
    spread: float


@torch.no_grad()
def estimate(
    metric: Callable[..., float],
    *tensors: Tensor,
    sample_size: int,
    repeats: int,
    generator: torch.Generator,
    **options: Any,
) -> Estimate:
    """Estimate any metric, of this package or your own, from subsets, if there are too many samples for all of them.

    `repeats` times, n = `sample_size` rows are drawn without replacement, the same rows of all tensors, and passed to
    the metric in their order, with the options. Tensors given by position are sampled; those given as options stay
    whole: for retrieval, the queries are sampled and `database=` and `database_labels=` are whole.

    What the mean over the subsets is an estimate of:

    - the value on all samples, unbiased, for means over single samples: `agreement`, `soft_label_entropy`, and, with
      the database whole and a relevant item for every query, `precision_at_k`, `knn_accuracy` and `retrieval_map`
      ("passalis" aside);
    - that value up to a bias like 1/n, for means over pairs that include a sample with itself, and for ratios of such
      means: `gram_alignment` is off by (1/n − 1/N) times the excess of the mean on the Gram matrices' diagonal over the
      mean off it; similarly biased are `kernel_transfer_error`, `linear_cka` (upwards, until n is well above the
      widths), `mmd_discrepancy`, `rkd_distance_discrepancy`, the Gaussian distances, `intra_class_similarity` and
      `inter_class_similarity`;
    - the value on n samples, which is a different number, if it depends on the density of the samples:
      `global_perception_coherence` and `wasserstein_discrepancy` are larger for small n, `neighbour_overlap` with k of
      n corresponds to the k·N/n nearest of all, and `effective_kernel_alignment` grows with n.

    Shape:
        `tensors` [N, ...] each: embeddings, logits, labels.

    Args:
        metric: a function that takes the tensors in their order and returns one number.
        tensors: aligned rows, of any dtype, memory-mapped or not: only drawn rows are read and copied.
        sample_size: n, from 1 to N.
        repeats: number of subsets.
        generator: random generator for the subsets.
        options: passed to the metric unchanged.

    Returns:
        The mean and the spread of the subsets' values. spread/√repeats is about the standard error of the mean if n is
        much smaller than N; it does not include the bias. Memory is that of the metric on n rows, plus 8 N bytes for a
        draw.

    Raises:
        ValueError: for tensors of different lengths, an argument out of its range, or a metric that does not return a
            number.

    Example:
        >>> import torch
        >>> from congruence.metrics import kernel_transfer_error, precision_at_k
        >>> x, draws = torch.arange(12.0).reshape(6, 2), torch.Generator().manual_seed(0)
        >>> estimate(kernel_transfer_error, x, x, sample_size=3, repeats=5, generator=draws)
        Estimate(mean=0.0, spread=0.0)
        >>> whole = {"database": x, "database_labels": torch.arange(6), "k": 1}
        >>> estimated = estimate(precision_at_k, x, torch.arange(6), sample_size=2, repeats=4, generator=draws, **whole)
        >>> estimated.mean
        1.0
    """
    name = "estimate"
    if not callable(metric):
        check.fail(name, "metric", "a function of tensors", type(metric).__name__)
    if not tensors:
        check.fail(name, "tensors", "one or more", "none")
    named = {f"tensors[{number}]": tensor for number, tensor in enumerate(tensors)}
    for argument, tensor in named.items():
        if not isinstance(tensor, Tensor):
            check.fail(name, argument, "a tensor", type(tensor).__name__)
        if tensor.dim() == 0:
            check.fail(name, argument, "a tensor with rows", f"shape {check.shape(tensor)}")
    check.same_rows(name, **named)
    values = []
    for drawn in subsets(name, tensors[0], "sample_size", sample_size, repeats, generator):
        rows = drawn.sort().values  # in the order of the samples, which ties keep and files are read in
        value = metric(*(tensor[rows.to(tensor.device)] for tensor in tensors), **options)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            check.fail(name, "metric", "a function that returns one number", type(value).__name__)
        values.append(value)
    mean, spread = mean_and_spread(values)
    return Estimate(mean=mean, spread=spread)


def subsets(
    function: str, samples: Tensor, argument: str, size: int, repeats: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Draw `repeats` sets of `size` rows, each without replacement; errors name `function` and `argument`.

    Example:
        >>> import torch
        >>> draws = subsets("estimate", torch.zeros(3, 1), "size", 3, 2, torch.Generator().manual_seed(0))
        >>> [sorted(drawn.tolist()) for drawn in draws]
        [[0, 1, 2], [0, 1, 2]]
    """
    rows = len(samples)
    bound = check.Real(low=1, high=rows, closed="both", integer=True)
    checks: dict[str, check.Constraint] = {argument: bound, "repeats": check.COUNT}
    check.hyperparameters(function, checks, **{argument: size, "repeats": repeats})
    if not isinstance(generator, torch.Generator):
        check.fail(function, "generator", "a torch.Generator", type(generator).__name__)
    for _ in range(repeats):
        drawn = torch.randperm(rows, generator=generator, device=generator.device)[:size].clone()
        yield drawn.to(samples.device)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation (n − 1; 0 for one value).

    Example:
        >>> mean_and_spread([1.0, 3.0])
        (2.0, 1.4142135623730951)
    """
    count = len(values)
    mean = math.fsum(values) / count
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1)) if count > 1 else 0.0
