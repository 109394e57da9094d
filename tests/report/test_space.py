"""What a page shows of a student beside its teacher."""

import pytest
import torch

from congruence.evaluation.embed import Embedded
from congruence.metrics import perception_coherence
from congruence.report.flat import Layouts
from congruence.report.space import Side, changed, confusions, heat, rank_agreement, view


def rows(features, logits=None, labels=None):
    return Embedded(features, logits, labels)


def random(count, width, seed):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_rank_agreement_is_spearmans_of_the_distances():
    from scipy.stats import spearmanr

    student, teacher = random(20, 4, 0), random(20, 6, 1)
    units = [torch.nn.functional.normalize(side.double()) for side in (student, teacher)]
    distances = [(1 - side @ side.T).fill_diagonal_(0) for side in units]
    expected = [spearmanr(one, other).statistic for one, other in zip(*distances, strict=True)]
    assert rank_agreement(student, teacher).tolist() == pytest.approx(expected, abs=2e-6)


def test_heat_has_the_classes_that_changed_most_in_blocks():
    labels = torch.arange(24) % 12
    phi = torch.where(labels == 3, 0.1, 0.9).double()
    student = torch.eye(12)[labels]
    found = heat(student, 2 * student, labels, phi)
    assert [number for number, _ in found["groups"]] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert {count for _, count in found["groups"]} == {2}
    assert found["samples"][6:8] == [3, 15]
    assert found["student"][0][:3] == [100, 100, 0]
    assert found["student"] == found["teacher"]
    lowest = heat(student, student, labels, torch.where(labels == 11, 0.1, 0.9).double())
    assert [11, 2] in lowest["groups"]


def test_confusions_are_counted_on_both_sides():
    labels = torch.tensor([0, 0, 0, 1, 2, -1])
    student = torch.eye(3)[torch.tensor([1, 1, 0, 1, 0, 2])]
    teacher = torch.eye(3)[torch.tensor([0, 1, 0, 1, 0, 0])]
    assert confusions(student, teacher, labels) == [[0, 1, 2, 1]]
    assert confusions(teacher, teacher, labels) == []


def test_the_sample_that_moved_has_changed_most():
    teacher = torch.cat([torch.tensor([[1.0, 0.0]]).repeat(12, 1), torch.tensor([[0.0, 1.0]]).repeat(12, 1)])
    teacher = teacher + 0.05 * random(24, 2, 2)
    student = teacher.clone()
    student[3] = torch.tensor([0.0, 1.0])
    logits = 10 * torch.stack([student[:, 0], student[:, 1]], 1)
    found = changed(rows(student, logits), rows(teacher), perception_coherence(student, teacher))
    first = found[0]
    assert (first["sample"], first["shared"]) == (3, 0.0)
    assert all(other < 12 for other in first["neighbours"]["teacher"])
    assert all(other >= 12 for other in first["neighbours"]["student"])
    assert list(first["soft"]) == ["student"]
    assert first["soft"]["student"][0] == [1, 1.0]
    assert changed(rows(teacher), rows(teacher), torch.ones(24)) == []
    assert changed(rows(teacher[:1]), rows(teacher[:1]), torch.ones(1)) == []


def test_a_view_of_a_student_that_is_its_teacher():
    features, labels = random(40, 6, 0), torch.arange(40) % 4
    logits = 5 * torch.eye(4)[labels]
    side = rows(features, logits, labels)
    found = view(Side("small", side), Side("large", side), ["a", "b", "c", "d"], Layouts())
    assert (found["student"], found["teacher"], found["left"]) == ("small", "large", [])
    assert set(found["phi"]) == {1.0}
    assert found["maps"]["pca"]["left"] == found["maps"]["tsne"]["left"] == 0.0
    assert found["maps"]["pca"]["student"] == found["maps"]["pca"]["teacher"]
    assert [entry["class"] for entry in found["classes"]] == ["a", "b", "c", "d"]
    assert {entry["rank_agreement"] for entry in found["classes"]} == {1.0}
    assert (found["changed"], found["confusions"]) == ([], [])
    assert found["answers"] == {"student": labels.tolist(), "teacher": labels.tolist()}


def test_without_labels_and_classes_their_parts_are_left_out():
    student = rows(random(12, 3, 0))
    teacher = rows(random(12, 5, 1))._replace(left_out="the teacher knows other classes")
    found = view(Side("small", student), Side("large", teacher), [], Layouts())
    assert {"classes", "heat", "confusions"}.isdisjoint(found)
    assert found["answers"] == {"student": None, "teacher": None}
    assert found["left"] == ["the teacher knows other classes"]
    assert found["changed"][0]["soft"] == {}


def test_rows_that_are_not_finite_are_one_sentence():
    broken = random(12, 3, 0)
    broken[4, 1] = float("nan")
    with pytest.raises(ValueError, match="the small's embeddings must be finite, got NaN or infinity for 1 of 12"):
        view(Side("small", rows(broken)), Side("large", rows(random(12, 5, 1))), [], Layouts())


def test_only_the_first_samples_have_neighbours(monkeypatch):
    from congruence.report import flat, space

    for module in (flat, space):
        monkeypatch.setattr(module, "SAMPLES", 15)
    side = rows(random(30, 3, 0), None, torch.arange(30) % 3)
    found = space.view(Side("small", side), Side("large", rows(random(30, 4, 1))), ["a", "b", "c"], Layouts())
    assert len(found["phi"]) == 15
    assert len(found["maps"]["pca"]["student"]) == 60
    assert len(found["maps"]["tsne"]["student"]) == 30
    assert sum(entry["samples"] for entry in found["classes"]) == 15
    assert max(max(entry["neighbours"]["student"]) for entry in found["changed"]) < 15
