"""The rows of the table of numbers that only `compare` shows; the table is in `numbers`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from congruence.evaluation import compared, retrieval
from congruence.evaluation.embeddings import Embeddings
from congruence.evaluation.number import Number, Value

_LABEL_LOGITS = ("labels", "every_label")
_ONE_WIDTH = ("teacher", "one_width")
_SEARCH = ("map", *(f"recall_at_{k}" for k in compared.TOPS))


def _row(
    key: str,
    function: Callable[[Embeddings], Value | Mapping[str, Value]],
    needs: tuple[str, ...],
    title: str,
    *,
    better: bool | None,
    scale: float = 1.0,
    digits: int = 3,
    detail: bool = True,
    on_request: bool = False,
    names: tuple[str, ...] = (),
    of_classes: bool = False,
) -> Number:
    return Number(
        key,
        function,
        needs,
        shown=("compare",),
        title=title,
        scale=scale,
        digits=digits,
        higher_is_better=better,
        detail=detail,
        on_request=on_request,
        names=names,
        of_classes=of_classes,
    )


# Numbers that need no teacher are measured for both sides, with the prefixes "teacher_" and "student_".
COMPARED: tuple[Number, ...] = (
    _row(
        "top_5_accuracy",
        compared.top_5_accuracy,
        (*_LABEL_LOGITS, "six_classes"),
        "top 5 (%)",
        better=True,
        scale=100.0,
        digits=1,
        of_classes=True,
    ),
    _row("ece", compared.calibration_error, _LABEL_LOGITS, "ECE", better=False, of_classes=True),
    _row(
        "kl", compared.divergence, ("teacher", "student_logits", "teacher_logits", "classes"), "KL (nats)", better=False
    ),
    _row("gaussian_wasserstein", compared.gaussian_wasserstein, _ONE_WIDTH, "Gaussian W2²", better=False),
    _row("gaussian_kl", compared.gaussian_kl, _ONE_WIDTH, "Gaussian KL", better=False),
    _row("mmd", compared.mean_discrepancy, _ONE_WIDTH, "MMD²", better=False),
    _row("intra_class_similarity", compared.intra_class_similarity, ("class_pair",), "intra-class sim.", better=None),
    _row("inter_class_similarity", compared.inter_class_similarity, ("two_classes",), "inter-class sim.", better=None),
    _row(
        "neighbour_overlap",
        compared.neighbour_overlaps,
        ("teacher", "two"),
        "neighbours",
        better=True,
        names=tuple(f"neighbour_overlap_{depth}" for depth in compared.DEPTHS),
    ),
    _row(
        "retrieval",
        retrieval.leave_one_out,
        ("class_pair",),
        "retrieval",
        better=True,
        names=tuple(f"retrieval_{name}" for name in _SEARCH),
    ),
    _row(
        "asymmetric_retrieval",
        retrieval.asymmetric,
        ("teacher", "class_pair", "projected"),
        "asymmetric retrieval",
        better=True,
        names=tuple(f"asymmetric_retrieval_{name}" for name in _SEARCH),
    ),
    _row(
        "knn_accuracy", compared.knn_accuracy, ("labels", "database"), "20-NN (%)", better=True, scale=100.0, digits=1
    ),
    _row(
        "linear_probe_accuracy",
        compared.linear_probe_accuracy,
        ("labels", "database"),
        "linear probe (%)",
        better=True,
        scale=100.0,
        digits=1,
        on_request=True,
    ),
    # Of dense logits, and of labels that hold independently.
    _row("mean_iou", compared.mean_iou, ("positions",), "mean IoU (%)", better=True, scale=100.0, digits=1),
    _row(
        "position_accuracy",
        compared.position_accuracy,
        ("positions",),
        "positions right (%)",
        better=True,
        scale=100.0,
        digits=1,
    ),
    _row(
        "position_agreement",
        compared.position_agreement,
        ("teacher", "both_positions"),
        "positions agreed on (%)",
        better=True,
        scale=100.0,
        digits=1,
    ),
    _row(
        "mean_average_precision",
        compared.mean_average_precision,
        ("label_sets",),
        "mAP of labels (%)",
        better=True,
        scale=100.0,
        digits=1,
    ),
    _row("macro_f1", compared.macro_f1, ("label_sets",), "F1 of labels (%)", better=True, scale=100.0, digits=1),
    _row(
        "label_agreement",
        compared.label_agreement,
        ("teacher", "both_label_sets"),
        "labels agreed on (%)",
        better=True,
        scale=100.0,
        digits=1,
    ),
)
