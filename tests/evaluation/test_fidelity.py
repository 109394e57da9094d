"""The protocol "fidelity": neighbours and retrieval shared with the teacher, also of prefixes, without labels."""

import pytest
import torch

from congruence import metrics
from congruence.config.protocol import ProtocolConfig
from congruence.evaluation.embeddings import Embeddings
from congruence.evaluation.fidelity import Fidelity, asymmetric_retrieval
from congruence.evaluation.from_embeddings import of_one_width
from congruence.evaluation.protocol import ProtocolData


class Rows:
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


class Parts:
    def __init__(self, count):
        self.test = Rows(count)


def features(seed, width, count=60):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).double()


def fitted(**settings):
    return Fidelity(**settings).fit(ProtocolData(Parts(60), "made"))


def nearest(query, gallery, at, k):
    cosines = torch.nn.functional.cosine_similarity(query[at][None], gallery)
    cosines[at] = -torch.inf
    return set(cosines.topk(k).indices.tolist())


def test_numbers_equal_slow_loops():
    teacher = features(0, 6)
    student = teacher @ features(1, 4, 6) + 0.3 * features(2, 4)
    found = fitted(k=3, dims=(2,)).measure(Embeddings(student, teacher), {})
    mapped = of_one_width(student, teacher)[0]
    overlap = sum(len(nearest(student, student, i, 3) & nearest(teacher, teacher, i, 3)) for i in range(60)) / 180
    across = sum(len(nearest(mapped, teacher, i, 3) & nearest(teacher, teacher, i, 3)) for i in range(60)) / 180
    cosines = torch.nn.functional.cosine_similarity(mapped[:, None], teacher[None], dim=2)
    own = (cosines.argmax(1) == torch.arange(60)).double().mean().item()
    assert list(found) == [
        *("neighbour_overlap_3", "linear_cka", "asymmetric_overlap_3", "asymmetric_recall_1"),
        *("neighbour_overlap_3_at_2", "gpcl_at_2", "linear_cka_at_2"),
    ]
    assert found["neighbour_overlap_3"] == pytest.approx(overlap)
    assert found["asymmetric_overlap_3"] == pytest.approx(across)
    assert found["asymmetric_recall_1"] == pytest.approx(own)
    assert 0 < own < 1
    assert found["linear_cka"] == pytest.approx(metrics.linear_cka(student, teacher))
    assert found["gpcl_at_2"] == pytest.approx(metrics.global_perception_coherence(student[:, :2], teacher))
    assert found["neighbour_overlap_3_at_2"] == pytest.approx(metrics.neighbour_overlap(student[:, :2], teacher, k=3))


def test_the_teacher_itself_is_perfect():
    rows = features(0, 6)
    found = fitted(k=5, dims=(6,)).measure(Embeddings(rows, rows), {})
    assert list(found.values()) == pytest.approx([1.0] * 7)
    assert set(fitted(k=5).measure(Embeddings(rows), {}).values()) == {None}


def test_large_galleries_go_by_blocks(monkeypatch):
    query, gallery = features(0, 4), features(1, 4)
    whole = asymmetric_retrieval(query, gallery, k=3)
    monkeypatch.setattr("congruence.evaluation.fidelity._CHUNK_ENTRIES", 7 * 60)
    assert asymmetric_retrieval(query, gallery, k=3) == whole


def test_what_is_refused():
    with pytest.raises(ValueError, match="needs 12 test samples or more"):
        Fidelity().fit(ProtocolData(Parts(11), "made"))
    with pytest.raises(ValueError, match="`dims` must be numbers up to the embedding's width 4, got 8"):
        fitted(dims=(8,)).measure(Embeddings(features(0, 4), features(1, 4)), {})
    with pytest.raises(ValueError, match="`dims` must be integers that differ"):
        Fidelity(dims=(2, 2))
    assert ProtocolConfig(kind="fidelity", k=5, dims=[2, 4]).protocol() == Fidelity(k=5, dims=(2, 4))
