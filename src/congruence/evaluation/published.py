"""How the numbers of protocols are called in tables; apart from `evaluation.numbers`, since few runs have them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from congruence.evaluation.number import Number

_TITLES = {
    r"top_(\d+)_accuracy": "top-{} accuracy",
    r"retrieval_map_published": "retrieval mAP, pub.",
    r"retrieval_top_(\d+)": "retrieval top-{}",
    r"retrieval_top_(\d+)_published": "retrieval top-{}, pub.",
    r"rank_(\d+)": "rank-{}",
    r"reid_map": "re-id mAP",
    r"rank_1_at_(\d+)": "rank-1 at {}",
    r"recall_at_(\d+)": "recall@{}",
    r"neighbour_overlap_(\d+)": "overlap@{}",
    r"neighbour_overlap_(\d+)_at_(\d+)": "overlap@{}, {}-d",
    r"asymmetric_overlap_(\d+)": "asym. overlap@{}",
    r"asymmetric_recall_(\d+)": "asym. recall@{}",
    r"linear_cka": "CKA",
    r"linear_cka_at_(\d+)": "CKA, {}-d",
    r"gpcl_at_(\d+)": "GPCL, {}-d",
    r"gpcl_batch_(\d+)": "GPCL of batches of {}",
}
_FRACTIONS = ("gpcl_",)  # shown as they are, not in per cent


def published(key: str) -> Number | None:
    """Return the row of a protocol's number, None for a key that is no protocol's.

    Example:
        >>> published("recall_at_4").title, published("accuracy")
        ('recall@4 (%)', None)
    """
    for pattern, words in _TITLES.items():
        found = re.fullmatch(pattern, key)
        if found:
            label = words.format(*found.groups())
            share = not key.startswith(_FRACTIONS)
            return Number(
                key,
                None,
                shown=("run", "plan"),
                title=f"{label} (%)" if share else label,
                label=label,
                scale=100.0 if share else 1.0,
                digits=1 if share else 4,
                higher_is_better=True,
            )
    return None


def rows(keys: Iterable[str]) -> tuple[Number, ...]:
    """Return the rows of several keys, each of which a protocol has."""
    found = {key: published(key) for key in keys}
    unknown = next((key for key, row in found.items() if row is None), None)
    if unknown is not None:
        raise RuntimeError(f"No protocol's number is called '{unknown}'.")
    return tuple(row for row in found.values() if row is not None)
