"""The numbers of `compare` by their definitions: slow loops in float64 on small data, ties, and large sets."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import congruence as cg
from congruence import metrics
from congruence.evaluation import Embeddings, compared, retrieval
from congruence.evaluation.changed import classes_of, most_changed, worst
from congruence.evaluation.numbers import numbers_in
from congruence.evaluation.projection import project

COUNT = 30


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def of():
    labels = torch.arange(COUNT) % 4
    labels[::7] = -1
    teacher = drawn(COUNT, 5) + 2 * torch.eye(4, 5)[torch.arange(COUNT) % 4]
    student = teacher @ drawn(5, 5, seed=1) + drawn(COUNT, 5, seed=2)
    return Embeddings(student, teacher, drawn(COUNT, 7, seed=3), drawn(COUNT, 7, seed=4), labels)


def cosines(x, y):
    return [[float(a @ b / (a.norm() * b.norm())) for b in y.double()] for a in x.double()]


def slow_search(query, gallery, labels):
    """Mean over queries of the precision at each relevant item, and the rank of the first."""
    similar, known = cosines(query, gallery), [i for i in range(len(labels)) if labels[i] >= 0]
    precisions, first = [], []
    for i in known:
        order = sorted((j for j in known if j != i), key=lambda j: -similar[i][j])
        hits = [labels[j] == labels[i] for j in order]
        if any(hits):
            at = [sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit]
            precisions.append(sum(at) / len(at))
            first.append(hits.index(True) + 1)
    tops = {f"recall_at_{k}": sum(rank <= k for rank in first) / len(first) for k in (1, 5, 10)}
    return {"map": sum(precisions) / len(precisions), **tops}


def test_retrieval_is_that_of_a_slow_loop(of):
    labels = of.labels.tolist()
    found = retrieval.leave_one_out(of)
    slow = slow_search(of.student_features, of.student_features, labels)
    assert found == pytest.approx({f"retrieval_{key}": value for key, value in slow.items()}, abs=1e-9)
    found = retrieval.asymmetric(of)
    slow = slow_search(of.student_features, of.teacher_features, labels)
    assert found == pytest.approx({f"asymmetric_retrieval_{key}": value for key, value in slow.items()}, abs=1e-9)


def test_queries_are_drawn_and_the_gallery_is_cut_into_blocks(of, monkeypatch):
    whole = retrieval.leave_one_out(of)["retrieval_map"]
    monkeypatch.setattr(retrieval, "_CHUNK_ENTRIES", 1)  # 16 rows at a time
    assert retrieval.leave_one_out(of)["retrieval_map"] == pytest.approx(whole, abs=1e-12)
    monkeypatch.setattr(retrieval, "QUERIES", 3)
    few = retrieval.leave_one_out(of)
    assert few["retrieval_recall_at_1"] * 3 == pytest.approx(round(few["retrieval_recall_at_1"] * 3))


@pytest.mark.parametrize("order", ["sorted", "mixed", "reversed"])
def test_a_student_whose_features_are_all_equal_finds_the_share_of_a_class(order):
    labels = torch.arange(600) % 10
    labels = {"sorted": labels.sort().values, "mixed": labels, "reversed": labels.sort(descending=True).values}[order]
    of = Embeddings(torch.ones(600, 3), drawn(600, 3), labels=labels)
    for found in (retrieval.leave_one_out(of), retrieval.asymmetric(of)):
        assert next(iter(found.values())) == pytest.approx(0.1, abs=0.03)
    overlaps = compared.neighbour_overlaps(of)
    assert overlaps["neighbour_overlap_100"] == pytest.approx(100 / 599, abs=0.03)
    train = Embeddings(torch.ones(600, 3), labels=labels, database=(torch.ones(600, 3), labels))
    assert compared.knn_accuracy(train) == pytest.approx(0.1, abs=0.01)


def test_a_class_of_one_is_looked_up_by_nobody():
    of = Embeddings(drawn(3, 2), drawn(3, 2, seed=1), labels=torch.tensor([0, 1, 2]))
    assert set(retrieval.leave_one_out(of).values()) == {None}


def test_neighbours_are_those_of_a_slow_loop(of):
    near = []
    for side in of.both():
        similar = cosines(side, side)
        near.append(
            [sorted((j for j in range(COUNT) if j != i), key=lambda j, i=i: -similar[i][j]) for i in range(COUNT)]
        )
    expected = {
        k: sum(len(set(near[0][i][:k]) & set(near[1][i][:k])) for i in range(COUNT)) / (k * COUNT) for k in (1, 10)
    }
    found = compared.neighbour_overlaps(of)
    assert found["neighbour_overlap_1"] == pytest.approx(expected[1])
    assert found["neighbour_overlap_10"] == pytest.approx(expected[10])
    assert found["neighbour_overlap_100"] is None


def test_divergence_and_calibration_are_those_of_a_slow_loop(of):
    total = 0.0
    for ours, theirs in zip(of.student_logits.double(), of.teacher_logits.double(), strict=True):
        p, q = theirs.softmax(0), ours.softmax(0)
        total += sum(float(p[c] * (p[c].log() - q[c].log())) for c in range(7))
    assert compared.divergence(of) == pytest.approx(total / COUNT)
    known = of.labels >= 0
    expected = metrics.expected_calibration_error(of.student_logits[known], of.labels[known])
    assert compared.calibration_error(of) == expected
    top = [int(label) in logits.topk(5).indices for logits, label in zip(of.student_logits, of.labels, strict=True)]
    assert compared.top_5_accuracy(of) == pytest.approx(
        sum(top[i] for i in range(COUNT) if known[i]) / int(known.sum())
    )


def test_classes_that_are_ruled_out_by_both_diverge_by_nothing():
    logits = torch.tensor([[0.0, 1.0, -torch.inf]])
    of = Embeddings(logits, logits, logits, logits)
    assert compared.divergence(of) == 0
    of = Embeddings(logits, logits, logits, torch.zeros(1, 3))
    assert compared.divergence(of) == math.inf
    assert compared.plain(compared.divergence(of)) is None


def test_distances_of_distributions_are_those_of_the_metrics(of):
    student, teacher = of.both()
    assert compared.gaussian_wasserstein(of) == metrics.gaussian_wasserstein_discrepancy(student, teacher)
    assert compared.gaussian_kl(of) == metrics.gaussian_kl_discrepancy(student, teacher)
    kernel = [0.0, 0.0, 0.0]
    squares = [float((a - b).square().sum()) for a in teacher.double() for b in teacher.double()]
    unit = sum(squares) / COUNT**2
    for place, (x, y) in enumerate(((student, student), (teacher, teacher), (student, teacher))):
        kernel[place] = (
            sum(math.exp(-float((a - b).square().sum()) / unit) for a in x.double() for b in y.double())
            / len(x)
            / len(y)
        )
    assert compared.mean_discrepancy(of) == pytest.approx(kernel[0] + kernel[1] - 2 * kernel[2], abs=1e-9)
    assert compared.mean_discrepancy(Embeddings(student, torch.ones(COUNT, 5))) is None


def test_coherence_of_samples_and_of_all(of):
    student, teacher = of.both()
    found = compared.coherence_of_samples(student, teacher)
    assert torch.equal(found, metrics.perception_coherence(student, teacher))
    assert compared.coherence(of) == {
        "gpcl": metrics.global_perception_coherence(student, teacher),
        "gpcl_spread": 0.0,
    }


def test_many_samples_are_estimated_from_drawn_ones(monkeypatch):
    teacher = drawn(400, 6)
    student = teacher + 0.3 * drawn(400, 6, seed=1)
    exact = metrics.perception_coherence(student, teacher)
    monkeypatch.setattr(compared, "EXACT", 200)
    monkeypatch.setattr(compared, "REFERENCES", 100)
    found = compared.coherence_of_samples(student, teacher)
    assert torch.corrcoef(torch.stack([found, exact]))[0, 1] > 0.8
    assert float(found.mean()) == pytest.approx(float(exact.mean()), abs=0.01)
    whole = compared.coherence(Embeddings(student, teacher))
    assert whole["gpcl"] == pytest.approx(float(exact.mean()), abs=0.01)
    assert 0 < whole["gpcl_spread"] < 0.02
    # By the definition: ranks among the references.
    references = compared.few(400, 100)
    ranks = []
    for side in (student, teacher):
        side = nn.functional.normalize(side.double())
        distances = 1 - side[:3] @ side[references].T
        ranks.append((distances[:, None, :] <= distances[:, :, None] + 1e-9).double().mean(2))
    assert found[:3].tolist() == pytest.approx((1 - (ranks[0] - ranks[1]).abs().mean(1)).tolist(), abs=1e-9)


def test_similarities_are_of_at_most_so_many(of, monkeypatch):
    known = of.labels >= 0
    rows, labels = of.student_features[known], of.labels[known]
    assert compared.intra_class_similarity(of) == metrics.intra_class_similarity(rows, labels)
    assert compared.inter_class_similarity(of) == metrics.inter_class_similarity(rows, labels)
    monkeypatch.setattr(compared, "PAIRED", 1)
    assert compared.intra_class_similarity(of) is None
    assert compared.inter_class_similarity(of) is None


def test_classes_and_samples_that_changed(of):
    coherence = torch.linspace(0.5, 1.0, COUNT).flip(0)
    classes = classes_of(of, coherence, ["a", "b", "c"])
    assert [entry["class"] for entry in classes] == ["a", "b", "c", 3]
    own = of.labels == 3
    hits = [float((side[own].argmax(1) == 3).double().mean()) for side in (of.teacher_logits, of.student_logits)]
    assert classes[3] == {
        "class": 3,
        "samples": int(own.sum()),
        "teacher_accuracy": hits[0],
        "student_accuracy": hits[1],
        "phi": pytest.approx(float(coherence[own].double().mean())),
    }
    losses = [entry["teacher_accuracy"] - entry["student_accuracy"] for entry in worst(classes)]
    assert losses == sorted(losses, reverse=True)
    changed = most_changed(of, coherence, ["a", "b", "c"])
    assert [entry["index"] for entry in changed] == list(range(COUNT - 1, COUNT - 21, -1))
    assert changed[1]["label"] is None  # sample 28 has none
    assert changed[0]["student_class"] in ("a", "b", "c", *range(3, 7))
    assert most_changed(of, torch.ones(COUNT)) == []


@pytest.mark.parametrize("kind", ["weight", "module", "function"])
def test_a_projection_brings_features_to_the_teacher_s_width(kind):
    weight, rows = drawn(4, 3), drawn(9, 3, seed=1)
    module = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Dropout(0.5)).double()
    with torch.no_grad():
        module[0].weight.copy_(weight)
    given = {"weight": weight, "module": module, "function": lambda x: x @ weight.T}[kind]
    found = project(rows, given, 4)
    assert torch.allclose(found, rows @ weight.T, atol=1e-6)
    assert (found.dtype, module.training) == (torch.float32, True)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            torch.zeros(3, 4),
            r"`projection` must be of shape \[4, 3\] \(the teacher's width, the student's\), got a tensor",
        ),
        (nn.Linear(3, 5), r"one that gives the teacher's width \(\[9, 4\] of \[9, 3\]\), got shape \[9, 5\]"),
        (nn.Linear(7, 4), "one that takes the student's features, got .* for features"),
        (7, "`projection` must be a weight matrix, a module or a function, got int"),
        (lambda x: None, "got NoneType"),
    ],
)
def test_a_wrong_projection_is_one_sentence(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        project(drawn(9, 3), given, 4)


def test_every_row_of_compare_is_by_one_key_or_names():
    rows = numbers_in("compare")
    keys = [name for number in rows.values() for name in number.names or (number.key,)]
    assert len(keys) == len(set(keys))
    assert {"accuracy", "kl", "gpcl", "gpcl_spread", "ece", "mmd", "wasserstein", "linear_cka"} <= set(keys)
    assert cg.evaluation.numbers.numbers_in("run")["gpcl"].function is not rows["gpcl"].function
