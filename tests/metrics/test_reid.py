import logging
import math

import pytest
import torch
from _harness import golden
from _harness.losses import seeded
from _harness.memory import peak_bytes

from congruence.geometry import dissimilarity_blocks
from congruence.metrics import reid, reid_evaluate


def stored_case(junk=False, dtype=torch.float32):
    stored = golden.arrays("reid_A")
    ids = stored["in_g_pids_with_junk" if junk else "in_g_pids"]
    features = stored["in_qf"].to(dtype), stored["in_gf"].to(dtype)
    return stored, (*features, stored["in_q_pids"], ids, stored["in_q_cams"], stored["in_g_cams"])


def slow(query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras, metric, max_rank):
    (distances,) = dissimilarity_blocks(query, gallery, metric, len(query))
    precisions, curves = [], []
    for i, row in enumerate(distances.tolist()):
        order = sorted(range(len(row)), key=row.__getitem__)
        same = [
            bool(gallery_ids[j] == query_ids[i])
            for j in order
            if gallery_ids[j] != -1 and (gallery_ids[j] != query_ids[i] or gallery_cameras[j] != query_cameras[i])
        ]
        if any(same):
            places = [position for position, hit in enumerate(same, 1) if hit]
            precisions.append(sum(number / position for number, position in enumerate(places, 1)) / len(places))
            curves.append([float(k >= places[0]) for k in range(1, max_rank + 1)])
    count = len(precisions)
    return sum(precisions) / count, [sum(column) / count for column in zip(*curves, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("junk", [False, True])
def test_equals_the_goldens(metric, junk, dtype, caplog):
    stored, data = stored_case(junk, dtype)
    scores = reid_evaluate(*data, metric=metric, max_rank=20)
    key = f"torchreid_{metric}{'_junk_removed' if junk else ''}"
    assert scores.map == pytest.approx(stored[f"{key}_mAP"].item(), rel=1e-12)
    torch.testing.assert_close(scores.cmc, stored[f"{key}_cmc"].double(), rtol=1e-6, atol=0)
    assert caplog.messages == ["`reid_evaluate`: 4 of 30 queries have no valid match and are left out."]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("entries", [1, 400, 2**20])
def test_equals_a_slow_loop_in_any_block(metric, entries, monkeypatch):
    _, data = stored_case(junk=True)
    monkeypatch.setattr(reid, "_CHUNK_ENTRIES", entries)
    scores = reid_evaluate(*data, metric=metric, max_rank=7)
    precision, curve = slow(*data, metric, 7)
    assert scores.map == pytest.approx(precision, rel=1e-13)
    assert scores.cmc.tolist() == pytest.approx(curve, rel=1e-13)


def test_the_curve_stays_past_the_end_of_the_gallery():
    gallery, ids, cameras = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([4, 7, 4]), torch.tensor([0, 1, 1])
    scores = reid_evaluate(torch.zeros(1, 1), gallery, torch.tensor([4]), ids, torch.tensor([0]), cameras)
    assert scores.map == 0.5
    assert scores.cmc.tolist() == [0.0] + 49 * [1.0]


def test_junk_is_dropped_from_both_sides():
    gallery, ids, cameras = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([-1, -1, 4]), torch.tensor([1, 1, 1])
    query = torch.zeros(2, 1), torch.tensor([4, -1]), torch.tensor([0, 0])
    scores = reid_evaluate(query[0], gallery, query[1], ids, query[2], cameras, max_rank=1)
    assert (scores.map, scores.cmc.tolist()) == (1.0, [1.0])


def test_equal_distances_keep_the_order_of_the_gallery():
    ids, cameras = torch.tensor([4, 7, 4]), torch.ones(3).long()
    scores = reid_evaluate(torch.zeros(1, 2), torch.ones(3, 2), torch.tensor([4]), ids, torch.tensor([0]), cameras)
    assert scores.map == pytest.approx((1 + 2 / 3) / 2)


def test_no_valid_match_is_not_a_number(caplog):
    one = torch.zeros(1).long()
    with caplog.at_level(logging.WARNING, "congruence"):
        scores = reid_evaluate(torch.zeros(1, 2), torch.ones(1, 2), one, one, one, one, max_rank=2)
    assert math.isnan(scores.map)
    assert scores.cmc.isnan().all()
    assert caplog.messages == ["`reid_evaluate`: 1 of 1 queries have no valid match and are left out."]


def test_memory_is_as_said():
    features = torch.randn(20_000, 8, generator=seeded())
    ids, cameras = torch.arange(20_000) % 900, torch.arange(20_000) % 7
    peak = peak_bytes(lambda: reid_evaluate(features[:64], features, ids[:64], ids, cameras[:64], cameras))
    assert peak <= 40 * 2**19 + 16 * (64 + 20_000) * 8


GOOD = dict(
    zip(
        ("query", "gallery", "query_ids", "gallery_ids", "query_cameras", "gallery_cameras"),
        (torch.zeros(2, 3), torch.zeros(4, 3), *(torch.zeros(n).long() for n in (2, 4, 2, 4))),
        strict=True,
    )
)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"gallery": torch.zeros(4, 5)}, "the same width, got `query` [2, 3], `gallery` [4, 5]."),
        ({"query_cameras": torch.zeros(3).long()}, "got `query` [2, 3], `query_ids` [2], `query_cameras` [3]."),
        (
            {"gallery_ids": torch.zeros(4)},
            "`gallery_ids` must be a 1-D integer tensor of class labels, got torch.float32 of shape [4].",
        ),
        ({"metric": "l2"}, "`metric` must be one of 'cosine', 'euclidean', got 'l2'."),
        ({"max_rank": 0}, "`max_rank` must be an integer >= 1, got 0."),
    ],
)
def test_errors(change, sentence):
    with pytest.raises(ValueError) as error:
        reid_evaluate(**{**GOOD, **change})
    assert str(error.value).startswith("`reid_evaluate`: ")
    assert str(error.value).endswith(sentence)
