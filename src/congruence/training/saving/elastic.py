"""Whether a run may go on with another number of ranks: only if every step still sees the same samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def why_not_on_other_ranks(before: Mapping[str, Any], now: Mapping[str, Any], *, planned: bool) -> str:
    """Describe why a run cannot go on with another number of ranks, "" if it can.

    With a loader of `congruence.data` a step's global batch depends on (seed, epoch, number) alone, and each of R ranks
    takes an R-th of it. Only a last batch that R does not divide is cut to a multiple of R.

    Args:
        before: the identity that the run was begun with, with `ranks` and `data`.
        now: the identity of today.
        planned: whether the loader's batches are the same global batches on any number of ranks.

    Example:
        >>> def run(ranks, size):
        ...     order = {"sampler": "EpochOrder", "size": size, "batch_size": 8, "drop_last": False}
        ...     return {"ranks": ranks, "data": {"order": order}}
        >>> why_not_on_other_ranks(run(4, 36), run(2, 36), planned=True)
        ''
        >>> why_not_on_other_ranks(run(4, 38), run(2, 38), planned=True)
        'its last batch of an epoch has 4 samples on 4 ranks and 6 on 2 (drop_last=True leaves it out)'
    """
    first, second = before["ranks"], now["ranks"]
    if first == second:
        return ""
    if not planned:
        return "a loader that is not from congruence.data gives other batches to another number of ranks"
    lasts = [_last_batch(before["data"].get("order") or {}, ranks) for ranks in (first, second)]
    if lasts[0] != lasts[1]:
        return (
            f"its last batch of an epoch has {lasts[0]} samples on {first} ranks and {lasts[1]} on {second} "
            "(drop_last=True leaves it out)"
        )
    return ""


def _last_batch(order: Mapping[str, Any], ranks: int) -> int:
    """Return the samples of a smaller last batch over all ranks, 0 without one."""
    if order.get("sampler") != "EpochOrder" or order["drop_last"]:
        return 0
    short: int = order["size"] % order["batch_size"]
    return short - short % ranks
