"""Every public metric that is given tensors, with arguments that it takes, and the numbers of its result."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from congruence import metrics

ROWS = 8
LABELS = torch.arange(ROWS) % 2


def rows(seed: int, count: int = ROWS, width: int = 3) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


PAIR: dict[str, Any] = {"student": rows(0), "teacher": rows(1)}
SEARCH: dict[str, Any] = {
    "query": rows(2),
    "query_labels": LABELS,
    "database": rows(3),
    "database_labels": LABELS.flip(0),
}
LANDMARKS: dict[str, Any] = {"student_landmarks": rows(4, 2), "teacher_landmarks": rows(5, 2)}
BY_CLASS: dict[str, Any] = {"embeddings": rows(0), "labels": LABELS}
LOGITS: dict[str, Any] = {"logits": rows(0), "labels": LABELS}
LABELLED: dict[str, Any] = {"logits": rows(0), "labels": (rows(1) > 0).long()}
# Every public function that is given tensors, with arguments that it takes.
CALLS: Mapping[str, Mapping[str, Any]] = {
    "accuracy": LOGITS,
    "agreement": {"student_logits": rows(0), "teacher_logits": rows(1)},
    "batch_coherence": {**PAIR, "batch_sizes": (4,), "repeats": 2},
    "effective_kernel_alignment": PAIR,
    "estimate_perception_coherence": {**PAIR, "batch_size": 8, "repeats": 2},
    "estimate_wasserstein_discrepancy": {**PAIR, "sample_size": 8, "repeats": 2},
    "expected_calibration_error": LOGITS,
    "feature_distance": PAIR,
    "gaussian_kl_discrepancy": PAIR,
    "gaussian_wasserstein_discrepancy": PAIR,
    "global_perception_coherence": PAIR,
    "gram_alignment": PAIR,
    "identification_rate": {
        "probe": rows(0),
        "probe_ids": LABELS,
        "gallery": rows(1),
        "gallery_ids": LABELS,
        "distractors": rows(2),
        "sizes": (8,),
    },
    "generalization_bound": {"risk": 0.1, "norm": 1.0, "kernel": torch.eye(ROWS)},
    "inter_class_similarity": BY_CLASS,
    "intra_class_similarity": BY_CLASS,
    "intra_inter_ratio": {**BY_CLASS, "positive": rows(1)},
    "kernel_transfer_bound": {**PAIR, **LANDMARKS, "assignment": LABELS},
    "cosine_kernel_transfer_error": PAIR,
    "kernel_transfer_error": PAIR,
    "knn_accuracy": {**SEARCH, "k": 3},
    "landmark_transfer_error": {**PAIR, **LANDMARKS},
    "linear_cka": PAIR,
    "linear_probe": {"train": rows(0), "train_labels": LABELS, "test": rows(1), "test_labels": LABELS},
    "macro_f1": LABELLED,
    "mean_average_precision": LABELLED,
    "mean_iou": LOGITS,
    "mmd_discrepancy": PAIR,
    "neighbour_overlap": {**PAIR, "k": 3},
    "norm_reduction": {"outputs": rows(0), "teacher": rows(1), "kernel": torch.eye(ROWS), "weight_decay": 0.1},
    "nystrom_error": {"embeddings": rows(0), "landmarks": rows(1, 3)},
    "order_preservation": PAIR,
    "perception_coherence": PAIR,
    "perception_stability": {**PAIR, "region": torch.tensor([0])},
    "precision_at_k": {**SEARCH, "k": 3},
    "interpolated_precision_at_k": {**SEARCH, "k": 3},
    "rank_preservation": PAIR,
    "recall_at_k": BY_CLASS,
    "reid_evaluate": {
        "query": rows(0),
        "gallery": rows(1),
        "query_ids": LABELS,
        "gallery_ids": LABELS,
        "query_cameras": 0 * LABELS,
        "gallery_cameras": 0 * LABELS + 1,
    },
    "retrieval_map": SEARCH,
    "rkhs_norm": {"outputs": rows(0), "kernel": torch.eye(ROWS)},
    "risk_gap": {**PAIR, "labels": LABELS, "weight": rows(2, 2), "bias": torch.zeros(2)},
    "rkd_distance_discrepancy": PAIR,
    "sliced_wasserstein_discrepancy": PAIR,
    "smallest_landmark_eigenvalue": {"landmarks": rows(0, 3)},
    "soft_label_entropy": {"logits": rows(0)},
    "wasserstein_discrepancy": PAIR,
}
# Given no tensors, or a metric of the caller's.
WITHOUT = {"estimate", "intra_inter_bounds"}


def numbers(value: Any) -> list[float]:
    """Return every number of a result."""
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [number for item in value for number in numbers(item)]
    if isinstance(value, Tensor):
        return [float(number) for number in value.flatten()]
    return [] if value is None else [float(value)]


def call(name: str, arguments: Mapping[str, Any]) -> list[float]:
    function: Callable[..., Any] = getattr(metrics, name)
    drawn = {"generator": draws()} if "generator" in inspect.signature(function).parameters else {}
    return numbers(function(**arguments, **drawn))
