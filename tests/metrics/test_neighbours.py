import math

import pytest
import torch
from _harness import golden
from _harness.losses import seeded
from _harness.memory import peak_bytes

from congruence.geometry import dissimilarity_blocks
from congruence.metrics import knn_accuracy, neighbour_overlap, neighbours, recall_at_k

METRICS = ["cosine", "euclidean"]


def order_of(query, database, metric, *, apart=False):
    (distances,) = dissimilarity_blocks(query, database, metric, len(query))
    return [
        sorted((j for j in range(len(row)) if not (apart and i == j)), key=row.__getitem__)
        for i, row in enumerate(distances.tolist())
    ]


def samples(rows=50, classes=6, dtype=torch.float32):
    generator = seeded()
    x = torch.randn(rows, 4, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(0, classes, (rows,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recall_equals_the_golden(dtype):
    stored = golden.arrays("recall_at_k_A")
    overlap = recall_at_k(stored["in_x"].to(dtype), stored["in_y"])
    assert overlap == stored["recall_ref"].tolist()
    more = recall_at_k(stored["in_x"].to(dtype), stored["in_y"], ks=(1, 2, 4, 8, 16))
    assert more == golden.description("recall_at_k_A")["results"]["mkt_noself"]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("entries", [1, 300, 2**19])
def test_recall_equals_a_slow_loop(metric, entries, monkeypatch):
    monkeypatch.setattr(neighbours, "_CHUNK_ENTRIES", entries)
    x, labels = samples()
    x = torch.cat([x, x[:10]])  # equal rows: equal distances
    labels = torch.cat([labels, labels[:10].roll(1)])
    orders = order_of(x, x, metric, apart=True)
    ks = (3, 1, 8, 20)
    expected = [
        sum(any(labels[j] == labels[i] for j in order[:k]) for i, order in enumerate(orders)) / len(x) for k in ks
    ]
    assert recall_at_k(x, labels, ks=ks, metric=metric) == expected


def test_recall_of_a_class_of_one_is_a_miss_and_a_large_k_is_all():
    x, labels = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([0, 0, 1])
    assert recall_at_k(x, labels, ks=(1, 2, 99)) == pytest.approx([2 / 3, 2 / 3, 2 / 3])


def test_a_diverged_model_has_no_recall():
    x, labels = torch.full((4, 2), math.nan), torch.arange(4)
    with pytest.raises(ValueError, match=r"`embeddings` must be finite, got NaN or infinity in 4 of 4 rows"):
        recall_at_k(x, labels, ks=(1, 3))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 2, 5, 20, 99])
def test_knn_equals_a_slow_loop(metric, k, monkeypatch):
    monkeypatch.setattr(neighbours, "_CHUNK_ENTRIES", 300)
    (x, labels), (query, query_labels) = samples(), samples(23)
    labels = 7 * labels + 3  # classes need not be 0, 1, ...
    query, query_labels = query + 0.1, 7 * query_labels + 3
    right = 0
    for order, own in zip(order_of(query, x, metric), query_labels.tolist(), strict=True):
        classes = [labels[j].item() for j in order[:k]]
        right += max(classes, key=classes.count) == own  # max keeps the first of equals: the nearest
    assert 0 < right < 23
    assert knn_accuracy(query, query_labels, x, labels, k=k, metric=metric) == right / 23


def test_knn_by_default_asks_twenty_by_cosine():
    x, labels = samples(90)
    query, query_labels = samples(40, dtype=torch.float64)
    expected = knn_accuracy(query, query_labels, x.double(), labels, k=20, metric="cosine")
    assert knn_accuracy(query, query_labels, x.double(), labels) == expected


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 3, 49])
def test_overlap_equals_a_slow_loop(metric, dtype, k, monkeypatch):
    monkeypatch.setattr(neighbours, "_CHUNK_ENTRIES", 300)
    teacher, _ = samples(dtype=dtype)
    student = teacher[:, :3] + 0.3 * samples(50)[0][:, 1:].flip(0).to(dtype)
    sides = [order_of(side, side, metric, apart=True) for side in (student, teacher)]
    shared = sum(len(set(a[:k]) & set(b[:k])) for a, b in zip(*sides, strict=True))
    overlap = neighbour_overlap(student, teacher, k=k, metric=metric)
    assert overlap == shared / (50 * k)
    assert (overlap == 1.0) == (k == 49)


def test_overlap_of_a_copy_is_one_and_of_chance_is_chance():
    teacher, _ = samples(400)
    assert neighbour_overlap(teacher, teacher, k=5) == neighbour_overlap(3 * teacher, teacher, k=5) == 1.0
    student = torch.randn(400, 4, generator=seeded(9))
    assert neighbour_overlap(student, teacher, k=40) == pytest.approx(40 / 399, abs=0.01)
    wide, also = (torch.randn(400, 4, generator=seeded(n)) for n in (1, 2))
    assert neighbour_overlap(wide, also, k=5) == neighbour_overlap(wide, also, k=5, metric="cosine")


def test_memory_is_as_said():
    x, labels = samples(2000)
    block, side = 2**19, 2000 * 4
    assert peak_bytes(lambda: recall_at_k(x, labels)) <= 40 * block + 32 * side
    assert peak_bytes(lambda: knn_accuracy(x, labels, x, labels)) <= 40 * block + 32 * side
    assert peak_bytes(lambda: neighbour_overlap(x, x, k=5)) <= 50 * block + 64 * side


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda x, y: recall_at_k(x, y[:2]), "`recall_at_k`: `embeddings` and `labels` must have the same number of"),
        (lambda x, y: recall_at_k(x[:1], y[:1]), "`recall_at_k`: `embeddings` must be two samples or more, got [1, 4]"),
        (lambda x, y: recall_at_k(x, y, ks=(1, 0)), "`recall_at_k`: `ks` must be an integer >= 1, got 0."),
        (lambda x, y: recall_at_k(x, y, metric="l2"), "`recall_at_k`: `metric` must be one of 'cosine', 'euclidean'"),
        (lambda x, y: knn_accuracy(x, y, x[:, :2], y), "`knn_accuracy`: `query` and `database` must have the same wid"),
        (lambda x, y: knn_accuracy(x, y, x, y[:2]), "`knn_accuracy`: `database` and `database_labels` must have the"),
        (lambda x, y: knn_accuracy(x, y, x, y, k=0), "`knn_accuracy`: `k` must be an integer >= 1, got 0."),
        (lambda x, y: neighbour_overlap(x, x[:2], k=1), "`neighbour_overlap`: `student` and `teacher` must have the"),
        (lambda x, y: neighbour_overlap(x, x, k=5), "`neighbour_overlap`: `k` must be an integer >= 1 and <= 4, got 5"),
        (lambda x, y: neighbour_overlap(x[:1], x[:1], k=1), "`neighbour_overlap`: `student` must be two samples or"),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(ValueError) as error:
        call(*samples(5))
    assert str(error.value).startswith(sentence)
