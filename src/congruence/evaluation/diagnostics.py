"""The table of diagnostics: what can be measured of a student while it learns, each from embeddings alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from congruence.core import check
from congruence.evaluation import diagnosed
from congruence.evaluation.diagnosed import Numbers
from congruence.evaluation.embeddings import Embeddings

ALL = "all"


@dataclass(frozen=True)
class Diagnostic:
    """A row of the table: the function, and what must be there for it."""

    function: Callable[[Embeddings], Numbers]
    needs: tuple[str, ...] = ()


_LOGITS = ("teacher", "student_logits", "teacher_logits")
DIAGNOSTICS: Mapping[str, Diagnostic] = {
    "accuracy": Diagnostic(diagnosed.accuracy, ("labels", "known_classes")),
    "agreement": Diagnostic(diagnosed.agreement, (*_LOGITS, "classes")),
    "calibration": Diagnostic(diagnosed.calibration, ("labels", "known_classes")),
    "class_similarity": Diagnostic(diagnosed.class_similarity, ("labels", "pairs")),
    "effective_kernel_alignment": Diagnostic(diagnosed.effective_kernel_alignment, _LOGITS),
    "gpcl": Diagnostic(diagnosed.gpcl, ("teacher",)),
    "gpcl_estimate": Diagnostic(diagnosed.gpcl_estimate, ("teacher",)),
    "gram_alignment": Diagnostic(diagnosed.gram_alignment, ("teacher",)),
    "intra_inter_ratio": Diagnostic(diagnosed.intra_inter_ratio, ("labels", "pairs")),
    "kernel_transfer_bound": Diagnostic(diagnosed.kernel_transfer_bound, ("teacher", "labels")),
    "kernel_transfer_error": Diagnostic(diagnosed.kernel_transfer_error, ("teacher",)),
    "landmark_transfer_error": Diagnostic(diagnosed.landmark_transfer_error, ("teacher", "labels")),
    "linear_cka": Diagnostic(diagnosed.linear_cka, ("teacher",)),
    "neighbour_overlap": Diagnostic(diagnosed.neighbour_overlap, ("teacher", "two")),
    "order_preservation": Diagnostic(diagnosed.order_preservation, ("teacher",)),
    "perception_stability": Diagnostic(diagnosed.perception_stability, ("teacher",)),
    "rank_preservation": Diagnostic(diagnosed.rank_preservation, ("teacher",)),
    "risk_gap": Diagnostic(diagnosed.risk_gap, ("teacher", "labels", "teacher_head")),
    "rkd_distance_discrepancy": Diagnostic(diagnosed.rkd_distance_discrepancy, ("teacher",)),
    "smallest_landmark_eigenvalue": Diagnostic(diagnosed.smallest_landmark_eigenvalue, ("labels",)),
    "soft_label_entropy": Diagnostic(diagnosed.soft_label_entropy, ("student_logits",)),
    "wasserstein": Diagnostic(diagnosed.wasserstein, ("teacher",)),
}


def known(measures: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of diagnostics, or "all" alone.

    Raises:
        ValueError: for a name that is none, with near ones.

    Example:
        >>> known("gpcl")
        ('gpcl',)
    """
    names = (measures,) if isinstance(measures, str) else tuple(measures)
    wrong = [name for name in names if name not in DIAGNOSTICS and names != (ALL,)]
    if wrong or not names:
        got = f"{wrong[0]!r}.{check.near(str(wrong[0]), DIAGNOSTICS)}" if wrong else "none."
        raise ValueError(f'`Diagnostics`: `measures` must be "all" or names among {", ".join(DIAGNOSTICS)}, got {got}')
    return names


def without_teacher(measures: Sequence[str]) -> tuple[str, ...]:
    """Return those that a student without a teacher can have."""
    return tuple(name for name in measures if name == ALL or "teacher" not in DIAGNOSTICS[name].needs)


def diagnose(of: Embeddings, measures: str | Sequence[str] = ALL) -> Numbers:
    """Measure embeddings.

    Args:
        of: the embeddings.
        measures: names of the table; "all": whatever can be had.

    Returns:
        Numbers by name; one diagnostic may give several.

    Raises:
        ValueError: for an unknown name, or a named one that cannot be had.

    Example:
        >>> import torch
        >>> teacher = torch.eye(3)
        >>> diagnose(Embeddings(teacher.flip(1), teacher), ["gpcl", "kernel_transfer_error"])
        {'gpcl': 1.0, 'kernel_transfer_error': 0.0}
    """
    names = known(measures)
    missing = {name: of.missing(DIAGNOSTICS[name].needs) for name in (DIAGNOSTICS if names == (ALL,) else names)}
    for name in names if names != (ALL,) else ():
        if missing[name]:
            got = f"'{name}', which needs {' and '.join(missing[name])}"
            check.fail("Diagnostics", "measures", "diagnostics that can be had here", got)
    found: Numbers = {}
    for name, lacks in missing.items():
        if not lacks:
            found |= DIAGNOSTICS[name].function(of)
    return found
