"""What is no number, no label or no choice of classes shows: in every public number, in every row of the catalogue."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

import pytest
import torch
from _harness.cases import CASES
from _harness.every_metric import CALLS, LABELS, LOGITS, ROWS, SEARCH, WITHOUT, call, rows
from torch import Tensor, nn

import congruence as cg
from congruence import metrics
from congruence.evaluation import Embeddings
from congruence.evaluation.retrieval import map_on_test
from congruence.testing.case import batches, small_distiller


def test_the_table_has_every_public_function():
    functions = {name for name in metrics.__all__ if inspect.isfunction(getattr(metrics, name))}
    assert functions == set(CALLS) | WITHOUT


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_no_metric_makes_a_number_of_what_is_none(name, dtype):
    usual = {k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in CALLS[name].items()}
    assert all(math.isfinite(number) for number in call(name, usual))
    for argument, tensor in usual.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            continue
        for bad in (math.nan, math.inf) if dtype == torch.float32 else (math.inf,):
            for places in ((-1, -1), (-1,), ()):
                spoilt = tensor.clone()
                spoilt[places[: tensor.dim()]] = bad
                try:
                    found: Any = call(name, {**usual, argument: spoilt})
                except ValueError as refusal:
                    found = str(refusal)
                if isinstance(found, str):
                    assert found.startswith(f"`{name}`: `{argument}` must be finite, got NaN or infinity")
                else:
                    assert not all(math.isfinite(number) for number in found), (argument, bad, places, found)


def test_nothing_is_alike_in_two_models_that_give_no_numbers():
    nothing = torch.full((ROWS, 3), math.nan)
    sentence = r"`student` must be finite, got NaN or infinity in 8 of 8 rows, first in row 0\."
    for name in ("global_perception_coherence", "feature_distance", "neighbour_overlap", "linear_cka"):
        with pytest.raises(ValueError, match=f"^`{name}`: {sentence}"):
            call(name, {**CALLS[name], "student": nothing, "teacher": nothing})


def test_a_masked_class_is_no_fault():
    logits = rows(0).clone()
    logits[:, 2] = -math.inf
    pair = {"student_logits": logits, "teacher_logits": logits}
    assert call("agreement", pair) == [1.0]
    assert all(math.isfinite(number) for number in call("accuracy", {**LOGITS, "logits": logits}))
    assert call("soft_label_entropy", {"logits": logits})[0] > 0


@pytest.mark.parametrize(
    "name",
    [
        *(
            "knn_accuracy",
            "recall_at_k",
            "precision_at_k",
            "interpolated_precision_at_k",
            "retrieval_map",
            "linear_probe",
            "identification_rate",
        ),
        *("intra_class_similarity", "inter_class_similarity", "intra_inter_ratio"),
    ],
)
@pytest.mark.parametrize("missing", [-1, -100])
def test_samples_without_a_label_are_left_out(name, missing):
    """Beside those that have one lie as many without: every number is what it is without them."""
    usual = CALLS[name]
    ids = [key for key in usual if key.endswith(("labels", "ids"))]
    named = {key for key in usual if isinstance(usual[key], Tensor) and key != "distractors"}
    more = {key: torch.cat([usual[key], torch.full((ROWS,), missing)]) for key in ids}
    more |= {key: torch.cat([usual[key], usual[key] + 0.01]) for key in named - set(ids)}
    assert call(name, {**usual, **more}) == pytest.approx(call(name, usual))


def test_a_run_s_retrieval_needs_labels_on_both_sides():
    missing = torch.full((ROWS,), -1)
    for own, database in ((missing, LABELS), (LABELS, missing), (missing, missing)):
        of = Embeddings(rows(0), labels=own, database=(rows(1), database))
        assert map_on_test(of) is None
    half = torch.where(torch.arange(ROWS) < 4, LABELS, -1)
    assert map_on_test(Embeddings(rows(0), labels=half, database=(rows(1), LABELS))) == map_on_test(
        Embeddings(rows(0)[:4], labels=LABELS[:4], database=(rows(1), LABELS))
    )


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("knn_accuracy", "query_labels"),
        ("knn_accuracy", "database_labels"),
        ("linear_probe", "test_labels"),
        ("linear_probe", "train_labels"),
    ],
)
def test_labels_that_are_all_missing_are_refused(name, argument):
    with pytest.raises(ValueError, match=f"^`{name}`: `{argument}` must be of"):
        call(name, {**CALLS[name], argument: torch.full((ROWS,), -1)})
    with pytest.raises(ValueError, match=r"^`recall_at_k`: `labels` must be of two labelled samples or more, got 1"):
        call("recall_at_k", {"embeddings": rows(0, 2), "labels": torch.tensor([3, -1])})
    assert math.isnan(*call("retrieval_map", {**SEARCH, "query_labels": torch.full((ROWS,), -1)}))


# What no loss reads: costs are made of it at the end of an epoch.
READ_LATER = {"wkd_l": "features"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_no_number_shows_in_every_method(case):
    distiller = small_distiller(case).double()
    given = batches(case)
    for epoch in range(2):  # past warm-ups, and with banks and queues that are full
        distiller.begin_epoch(epoch)
        for batch in given:
            distiller(batch.inputs, batch.labels, batch.index, views=batch.views)
    batch = given[0]
    captured = distiller.capture(batch.inputs, batch.labels, batch.index, views=batch.views)
    assert torch.isfinite(distiller.score(captured, update=False).loss)
    paths = distiller.bindings[case.entry.key].paths
    later = {(model, path) for (model, role), of in paths.items() if role == READ_LATER.get(case.row) for path in of}
    for key, tensor in captured.tensors.items():
        if (key[0], key[2]) in later:
            continue
        for bad, places in ((math.nan, slice(-1, None)), (math.inf, slice(-1, None)), (math.nan, slice(None))):
            spoilt = tensor.detach().clone()
            spoilt[places] = bad
            changed = dataclasses.replace(captured, tensors={**captured.tensors, key: spoilt})
            assert not torch.isfinite(distiller.score(changed, update=False).loss), (key, bad, places)


@pytest.mark.parametrize("key", ["ce", "kd", "dkd", "dist", "mlld", "dml", "joint_wasserstein"])
def test_a_single_logit_teaches_no_classes(key):
    students = {"first": nn.Linear(4, 1), "second": nn.Linear(4, 1)} if key == "dml" else nn.Linear(4, 1)
    sentence = (
        rf"^The term '{key}' does not fit these layers .*must be logits of two classes or more, got shape \[2, 1\]"
    )
    with pytest.raises(ValueError, match=rf"{sentence}.*torch\.cat\(\[torch\.zeros_like\(z\), z\], 1\)"):
        cg.Distiller(nn.Linear(4, 1), students, [key], example=torch.randn(2, 4))


@pytest.mark.parametrize("name", ["accuracy", "agreement", "expected_calibration_error", "soft_label_entropy"])
def test_a_single_logit_has_no_numbers_of_classes(name):
    """All models would agree by it, be right, and be sure."""
    narrow = {key: 0 * value if key == "labels" else value[:, :1] for key, value in CALLS[name].items()}
    with pytest.raises(
        ValueError, match=rf"^`{name}`: `\w+` must be logits of two classes or more, got shape \[8, 1\]"
    ):
        call(name, narrow)


def test_models_of_a_single_logit_are_compared_without_classes():
    models = [nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)) for _ in range(2)]
    found = cg.compare(*models, [(rows(0, 8, 4), LABELS)])
    assert (found.agreement, found.student_accuracy, found.teacher_accuracy) == (None, None, None)
    assert 0 <= found.gpcl <= 1


def test_two_logits_of_one_teach_what_the_sigmoid_does():
    """The way on that the sentence names: kd of [0, z] is the divergence of the two Bernoulli distributions."""
    z, t = rows(0, 6, 1).double(), rows(1, 6, 1).double()
    value = cg.losses.distillation_loss(*(torch.cat([torch.zeros_like(x), x], 1) for x in (z, t)), temperature=1.0)
    p, q = torch.sigmoid(z), torch.sigmoid(t)
    expected = (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()).mean()
    torch.testing.assert_close(value, expected)
