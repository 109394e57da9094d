"""The table of numbers: what is measured for a student, where each number is shown, and how.

A run's test numbers, the columns of a plan, `compare` and the diagnostics are all read from here. A package adds rows
through the entry-point group `congruence.metrics`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from congruence.core.plugins import contributed
from congruence.evaluation import compared, from_embeddings, retrieval
from congruence.evaluation.compared_rows import COMPARED
from congruence.evaluation.number import PLACES, Number, Place, from_outside

GROUP = "congruence.metrics"
_TEACHER: tuple[str, ...] = ("teacher",)
_LABEL_LOGITS = ("labels", "every_label")
_BOTH_LOGITS = ("teacher", "student_logits", "teacher_logits")
_DIAGNOSTICS: tuple[Place, ...] = ("diagnostics",)
_COMPARE: tuple[Place, ...] = ("compare",)
ROWS: tuple[Number, ...] = (
    # A run's test numbers and a plan's columns, in the order in which they are stored and shown.
    Number(
        "accuracy",
        from_embeddings.accuracy,
        _LABEL_LOGITS,
        shown=("run", "compare", "diagnostics"),
        higher_is_better=True,
        of_classes=True,
    ),
    Number(
        "accuracy_best",
        from_embeddings.accuracy,
        _LABEL_LOGITS,
        shown=("plan",),
        title="accuracy, best (%)",
        label="accuracy",
        scale=100.0,
        digits=1,
        higher_is_better=True,
        of_classes=True,
    ),
    Number(
        "accuracy_last",
        from_embeddings.accuracy,
        _LABEL_LOGITS,
        shown=("plan",),
        title="accuracy, last (%)",
        scale=100.0,
        digits=1,
        higher_is_better=True,
        of_classes=True,
        last=True,
    ),
    Number(
        "retrieval_map",
        retrieval.map_on_test,
        ("database",),
        shown=("run", "plan"),
        title="retrieval mAP (%)",
        label="retrieval mAP",
        scale=100.0,
        digits=1,
        higher_is_better=True,
    ),
    Number(
        "gpcl",
        from_embeddings.gpcl,
        _TEACHER,
        shown=("run", "plan", "diagnostics"),
        title="GPCL",
        label="coherence GPCL",
        higher_is_better=True,
    ),
    Number(
        "gpcl",
        compared.coherence,
        _TEACHER,
        shown=_COMPARE,
        title="GPCL",
        higher_is_better=True,
        names=("gpcl", "gpcl_spread"),
    ),
    Number(
        "kernel_transfer_error",
        from_embeddings.kernel_transfer_error,
        _TEACHER,
        title="kernel error",
        label="kernel error",
        higher_is_better=False,
        detail=True,
    ),
    Number(
        "logit_kernel_transfer_error",
        from_embeddings.logit_kernel_transfer_error,
        _BOTH_LOGITS,
        shown=("run", "plan"),
        title="kernel error (logits)",
        label="k. error, logits",
        higher_is_better=False,
        detail=True,
    ),
    Number(
        "cosine_kernel_transfer_error",
        from_embeddings.cosine_kernel_transfer_error,
        _TEACHER,
        shown=("run", "plan", "compare"),
        title="kernel error (cosine)",
        label="k. error, cosine",
        higher_is_better=False,
        detail=True,
    ),
    Number(
        "sliced_wasserstein",
        from_embeddings.sliced_wasserstein,
        ("teacher", "one_width"),
        shown=("run", "plan", "compare"),
        title="sliced W2²",
        label="sliced W2²",
        digits=2,
        higher_is_better=False,
        detail=True,
    ),
    Number(
        "wasserstein",
        from_embeddings.wasserstein_of_first,
        ("teacher", "one_width"),
        shown=("run", "plan", "compare"),
        title="W2²",
        label="W2² of 2,000",
        digits=2,
        higher_is_better=False,
        detail=True,
        on_request=True,
    ),
    Number(
        "soft_label_entropy",
        from_embeddings.soft_label_entropy,
        ("student_logits",),
        shown=("run", "plan", "diagnostics"),
        title="entropy (nats)",
        label="soft-label H",
        detail=True,
        teacher_too=True,
    ),
    Number(
        "intra_class_similarity",
        from_embeddings.intra_class_similarity,
        ("class_pair",),
        shown=("run",),
        label="intra-class sim.",
        detail=True,
    ),
    Number(
        "inter_class_similarity",
        from_embeddings.inter_class_similarity,
        ("two_classes",),
        shown=("run",),
        label="inter-class sim.",
        detail=True,
    ),
    Number("parameters", None, shown=("run", "plan", "compare"), digits=0, form=",d", higher_is_better=False),
    Number("seconds", None, shown=("plan",), digits=0, higher_is_better=False, detail=True),
    # Diagnostics, and what `compare` has of them.
    Number(
        "agreement",
        from_embeddings.agreement,
        (*_BOTH_LOGITS, "classes"),
        shown=("compare", "diagnostics"),
        higher_is_better=True,
    ),
    Number("calibration", from_embeddings.calibration, _LABEL_LOGITS, shown=_DIAGNOSTICS, higher_is_better=False),
    Number(
        "class_similarity", from_embeddings.class_similarity, ("labels", "pairs"), shown=_DIAGNOSTICS, teacher_too=True
    ),
    Number(
        "effective_kernel_alignment",
        from_embeddings.effective_kernel_alignment,
        _BOTH_LOGITS,
        shown=_DIAGNOSTICS,
        higher_is_better=False,
    ),
    Number("gpcl_estimate", from_embeddings.gpcl_estimate, _TEACHER, shown=_DIAGNOSTICS, higher_is_better=True),
    Number("gram_alignment", from_embeddings.gram_alignment, _TEACHER, shown=_DIAGNOSTICS, higher_is_better=False),
    Number(
        "intra_inter_ratio",
        from_embeddings.intra_inter_ratio,
        ("labels", "pairs"),
        shown=_DIAGNOSTICS,
        teacher_too=True,
    ),
    Number(
        "kernel_transfer_bound",
        from_embeddings.kernel_transfer_bound,
        ("teacher", "labels"),
        shown=_DIAGNOSTICS,
        higher_is_better=False,
    ),
    Number(
        "landmark_transfer_error",
        from_embeddings.landmark_transfer_error,
        ("teacher", "labels"),
        shown=_DIAGNOSTICS,
        higher_is_better=False,
    ),
    Number(
        "linear_cka",
        from_embeddings.linear_cka,
        _TEACHER,
        shown=("compare", "diagnostics"),
        title="linear CKA",
        higher_is_better=True,
        detail=True,
    ),
    Number(
        "neighbour_overlap",
        from_embeddings.neighbour_overlap,
        ("teacher", "two"),
        shown=_DIAGNOSTICS,
        higher_is_better=True,
    ),
    Number(
        "nystrom_error",
        from_embeddings.nystrom_error,
        ("labels",),
        shown=_DIAGNOSTICS,
        teacher_too=True,
        higher_is_better=False,
    ),
    Number(
        "order_preservation", from_embeddings.order_preservation, _TEACHER, shown=_DIAGNOSTICS, higher_is_better=True
    ),
    Number("perception_stability", from_embeddings.perception_stability, _TEACHER, shown=_DIAGNOSTICS),
    Number("rank_preservation", from_embeddings.rank_preservation, _TEACHER, shown=_DIAGNOSTICS, higher_is_better=True),
    Number(
        "risk_gap",
        from_embeddings.risk_gap,
        ("teacher", "labels", "teacher_head"),
        shown=_DIAGNOSTICS,
        higher_is_better=False,
    ),
    Number(
        "rkd_distance_discrepancy",
        from_embeddings.rkd_distance_discrepancy,
        _TEACHER,
        shown=_DIAGNOSTICS,
        higher_is_better=False,
    ),
    Number(
        "smallest_landmark_eigenvalue",
        from_embeddings.smallest_landmark_eigenvalue,
        ("labels",),
        shown=_DIAGNOSTICS,
        teacher_too=True,
    ),
    Number("wasserstein", from_embeddings.wasserstein, _TEACHER, shown=_DIAGNOSTICS, higher_is_better=False),
    *COMPARED,
)


# What else a plan's rows are stored with: no number has such a name.
RESERVED = (
    *("name", "method", "variant", "seed", "factor", "found", "diagnosed", "made", "failed"),
    *("cost", "published"),  # only in the rows of its tables
)


def table(rows: Iterable[Number]) -> Mapping[Place, Mapping[str, Number]]:
    """Index rows by place and key; a key that occurs twice in one place raises."""
    index: dict[Place, dict[str, Number]] = {place: {} for place in PLACES}
    for number in rows:
        if number.key in RESERVED:
            raise ValueError(f"No number can have the key '{number.key}': a plan's results have it already.")
        for place in number.shown:
            if number.key in index[place]:
                raise ValueError(f"The table of numbers has two rows with the key '{number.key}'.")
            index[place][number.key] = number
    return MappingProxyType(index)


@functools.cache
def _all() -> Mapping[Place, Mapping[str, Number]]:
    return table((*ROWS, *(from_outside(number, number.key) for number in contributed(GROUP, Number, "Number"))))


def measured_in(place: Place) -> tuple[Number, ...]:
    """Return the rows of a place but for those on request.

    Example:
        >>> [number.key for number in numbers_in("run").values() if number not in measured_in("run")]
        ['wasserstein']
    """
    return tuple(number for number in numbers_in(place).values() if not number.on_request)


def numbers_in(place: Place) -> Mapping[str, Number]:
    """Return the rows that are shown in a place, in the table's order.

    Example:
        >>> list(numbers_in("compare"))[:4]
        ['accuracy', 'gpcl', 'kernel_transfer_error', 'cosine_kernel_transfer_error']
    """
    return _all()[place]
