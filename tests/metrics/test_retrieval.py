import logging
import math

import pytest
import torch
from _harness import golden
from _harness.losses import seeded
from _harness.memory import peak_bytes

from congruence.metrics import interpolated_precision_at_k, precision_at_k, retrieval_map

METRICS = ["cosine", "euclidean"]


def stored_case(metric, dtype):
    stored = golden.arrays(f"retrieval_11pt_{metric}_A")
    query, database = stored["in_queries"].to(dtype), stored["in_db"].to(dtype)
    return stored, (query, stored["in_query_labels"], database, stored["in_db_labels"])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_goldens(metric, dtype):
    stored, data = stored_case(metric, dtype)
    expected = {"11pt": "ref_map_11pt_trec", "none": "ref_map_standard_AP"}
    for interpolation, key in expected.items():
        score = retrieval_map(*data, metric=metric, interpolation=interpolation, query_batch=16)
        assert score == pytest.approx(stored[key].item(), rel=1e-12)
    for batch in (40, 20, 16):
        score = retrieval_map(*data, metric=metric, interpolation="passalis", query_batch=batch)
        assert score == pytest.approx(stored[f"official_bs{batch}_map"].item(), rel=1e-12)
        for k in (1, 10, 39, 40, 41, 300):
            score = interpolated_precision_at_k(*data, k=k, metric=metric, query_batch=batch)
            assert score == pytest.approx(stored[f"official_bs{batch}_raw_precision"][k - 1].item(), rel=1e-12)
    for k in (1, 10, 50, 300):
        score = precision_at_k(*data, k=k, metric=metric)
        assert score == pytest.approx(stored["ref_precision_at_k_true"][k - 1].item(), rel=1e-12)


def test_passalis_over_more_queries_than_items_is_the_full_interpolation():
    stored, (query, query_labels, database, database_labels) = stored_case("cosine", torch.float64)
    data = (query.repeat(8, 1), query_labels.repeat(8), database, database_labels)
    score = retrieval_map(*data, interpolation="passalis", query_batch=320)
    assert score == pytest.approx(stored["ref_map_official_formula_full_interpolation"].item(), rel=1e-12)


@pytest.mark.parametrize("interpolation", ["11pt", "none"])
def test_query_batch_changes_nothing_but_passalis(interpolation):
    _, data = stored_case("euclidean", torch.float32)
    values = {retrieval_map(*data, interpolation=interpolation, query_batch=b) for b in (1, 7, 40, 128)}
    assert max(values) - min(values) < 1e-14
    passalis = {retrieval_map(*data, interpolation="passalis", query_batch=b) for b in (1, 7, 40)}
    assert max(passalis) - min(passalis) > 1e-3


def test_by_hand():
    # Relevance in order of distance: 1 0 1 0 0 1; precisions at the hits 1, 2/3, 1/2.
    database = torch.arange(1.0, 7.0)[:, None]
    data = (torch.zeros(1, 1), torch.tensor([5]), database, torch.tensor([5, 0, 5, 1, 2, 5]))
    plain = retrieval_map(*data, metric="euclidean", interpolation="none")
    assert plain == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    # Recall 1/3 reaches levels 0 to 0.3, 2/3 levels 0.4 to 0.6, 1 the other four.
    eleven = retrieval_map(*data, metric="euclidean", interpolation="11pt")
    assert eleven == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 / 2) / 11)
    assert precision_at_k(*data, k=3, metric="euclidean") == pytest.approx(2 / 3)


def test_a_recall_of_exactly_a_level_reaches_it():
    # Ten relevant items, then noise in between: recall i/10 is met exactly at every hit.
    labels = torch.tensor([1] * 3 + [0] * 4 + [1] * 7)
    database = torch.arange(1.0, 15.0)[:, None]
    score = retrieval_map(torch.zeros(1, 1), torch.tensor([1]), database, labels, metric="euclidean")
    assert score == pytest.approx((4 * 1 + 7 * 10 / 14) / 11)


def test_ties_keep_the_order_of_the_database():
    generator = seeded()
    row = torch.randn(1, 33, generator=generator)
    database = row.repeat(50, 1)
    query = torch.randn(3, 33, generator=generator)
    labels = torch.zeros(50, dtype=torch.long)
    labels[:10] = 1
    for metric in METRICS:
        data = (query, torch.ones(3).long(), database, labels)
        assert precision_at_k(*data, k=10, metric=metric) == 1.0
        assert retrieval_map(*data, metric=metric, interpolation="none") == 1.0


@pytest.mark.parametrize("interpolation", ["11pt", "none", "passalis"])
def test_queries_without_a_relevant_item_are_left_out_and_counted(interpolation, caplog):
    query, database = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1.0], [5.0]])
    labels, database_labels = torch.tensor([0, 7, 7]), torch.tensor([0, 1])
    with caplog.at_level(logging.WARNING, "congruence"):
        score = retrieval_map(query, labels, database, database_labels, metric="euclidean", interpolation=interpolation)
    alone = retrieval_map(query[:1], labels[:1], database, database_labels, metric="euclidean")
    assert score == alone == 1.0
    assert caplog.messages == ["`retrieval_map`: 2 of 3 queries have no relevant item and are left out."]


def test_no_query_with_a_relevant_item_is_not_a_number():
    data = (torch.ones(2, 1), torch.tensor([3, 3]), torch.ones(2, 1), torch.tensor([0, 1]))
    assert math.isnan(retrieval_map(*data))
    assert math.isnan(precision_at_k(*data, k=1))


def test_a_rotation_leaves_all_and_a_scale_leaves_cosine():
    _, (query, query_labels, database, database_labels) = stored_case("cosine", torch.float64)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=seeded(), dtype=torch.float64)).Q
    for metric in METRICS:
        plain = retrieval_map(query, query_labels, database, database_labels, metric=metric)
        turned = retrieval_map(query @ turn, query_labels, database @ turn, database_labels, metric=metric)
        assert turned == pytest.approx(plain, rel=1e-12)
    scales = torch.rand(300, 1, generator=seeded(), dtype=torch.float64) + 0.1
    plain = retrieval_map(query, query_labels, database, database_labels)
    assert retrieval_map(query, query_labels, scales * database, database_labels) == pytest.approx(plain, rel=1e-12)


def test_a_diverged_model_retrieves_nothing():
    database, labels = torch.full((4, 2), math.nan), torch.tensor([0, 1, 0, 1])
    data = (torch.ones(2, 2), torch.tensor([1, 1]), database, labels)
    with pytest.raises(ValueError, match=r"`database` must be finite, got NaN or infinity in 4 of 4 rows"):
        retrieval_map(*data, interpolation="none")
    with pytest.raises(ValueError, match=r"`database` must be finite, got NaN or infinity in 4 of 4 rows"):
        precision_at_k(*data, k=2)


@pytest.mark.parametrize("interpolation", ["11pt", "none", "passalis"])
def test_memory_is_a_block_of_queries(interpolation):
    database, query = torch.randn(20_000, 8, generator=seeded()), torch.randn(64, 8, generator=seeded(1))
    labels = torch.arange(20_000) % 10
    both = 16 * (64 + 20_000) * (8 + 4)  # with their lengths and sizes
    data = (query, labels[:64], database, labels)
    for batch in (4, 16):
        peak = peak_bytes(lambda b=batch: retrieval_map(*data, interpolation=interpolation, query_batch=b))
        assert peak <= 40 * batch * 20_000 + both
    assert peak_bytes(lambda: precision_at_k(*data, k=100)) <= 40 * 2**19 + both


GOOD = {
    "query": torch.zeros(2, 3),
    "query_labels": torch.zeros(2).long(),
    "database": torch.zeros(4, 3),
    "database_labels": torch.zeros(4).long(),
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"database": torch.zeros(4, 5)}, "the same width, got `query` [2, 3], `database` [4, 5]."),
        ({"query_labels": torch.zeros(3).long()}, "got `query` [2, 3], `query_labels` [3]."),
        ({"database_labels": torch.zeros(3).long()}, "got `database` [4, 3], `database_labels` [3]."),
        ({"query": torch.zeros(2)}, "`query` must be a non-empty 2-D tensor, got shape [2]."),
        ({"metric": "l2"}, "`metric` must be one of 'cosine', 'euclidean', got 'l2'."),
        ({"interpolation": "12pt"}, "`interpolation` must be one of '11pt', 'none', 'passalis', got '12pt'."),
        ({"query_batch": 0}, "`query_batch` must be an integer >= 1, got 0."),
    ],
)
def test_map_errors(change, sentence):
    with pytest.raises(ValueError) as error:
        retrieval_map(**{**GOOD, **change})
    assert str(error.value).startswith("`retrieval_map`: ")
    assert str(error.value).endswith(sentence)


@pytest.mark.parametrize("k", [0, 5, 1.0])
def test_precision_errors(k):
    with pytest.raises(ValueError, match=r"^`precision_at_k`: `k` must be an integer >= 1 and <= 4, got"):
        precision_at_k(**GOOD, k=k)
