"""Perception coherence as a term: several layers, and a dissimilarity of the teacher's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import congruence as cg
from congruence import Term
from congruence.losses import perception_coherence_loss


def net(seed: int, widths: tuple[int, int]) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, widths[0]), nn.Tanh(), nn.Linear(widths[0], widths[1]), nn.Tanh(), nn.Linear(widths[1], 3)
    )


def manhattan(rows: torch.Tensor) -> torch.Tensor:
    return torch.cdist(rows, rows, p=1.0)


@pytest.fixture
def points() -> torch.Tensor:
    return torch.randn(10, 6, generator=torch.Generator().manual_seed(0))


def hidden(model: nn.Sequential, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return model[:1](points), model[:3](points)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"teacher_dissimilarity": "euclidean", "teacher_temperature": 0.2},
        {"dissimilarity": "euclidean", "teacher_dissimilarity": "cosine", "method": "exact"},
        {"teacher_dissimilarity": manhattan, "student_temperature": 0.05},
    ],
    ids=["defaults", "euclidean teacher", "euclidean student", "callable"],
)
def test_layers_of_other_widths_are_summed(points, settings):
    teacher, student = net(0, (9, 7)), net(1, (4, 5))
    term = Term("perception_coherence", student_layer=["0", "2"], teacher_layer=["0", "2"], **settings)
    distiller = cg.Distiller(teacher, student, [term], example=points[:2])
    out = distiller(points)
    pairs = zip(hidden(student, points), hidden(teacher, points), strict=True)
    expected = sum(perception_coherence_loss(mine, theirs.detach(), **settings) for mine, theirs in pairs)
    torch.testing.assert_close(out.terms["perception_coherence"], expected)
    torch.testing.assert_close(out.loss, 5 * expected)
    gradients = torch.autograd.grad(out.loss, list(student[:3].parameters()))
    torch.testing.assert_close(gradients, torch.autograd.grad(5 * expected, list(student[:3].parameters())))


def test_two_terms_are_the_paper_s_classification_objective(points):
    teacher, student = net(0, (9, 7)), net(1, (4, 5))
    labels = torch.arange(10) % 3
    settings = {"teacher_temperature": 0.2}
    logits = Term("perception_coherence", name="logits", student_layer="output", teacher_layer="output", **settings)
    distiller = cg.Distiller(
        teacher, student, ["ce", Term("perception_coherence", **settings), logits], example=points[:2]
    )
    out = distiller(points, labels)
    coherence = [
        perception_coherence_loss(mine(points), theirs(points).detach(), **settings)
        for mine, theirs in ((student[:4], teacher[:4]), (student, teacher))
    ]
    expected = nn.functional.cross_entropy(student(points), labels) + 5 * sum(coherence)
    torch.testing.assert_close(out.loss, expected)


def test_layers_in_unequal_numbers_are_refused(points):
    term = Term("perception_coherence", student_layer=["0", "2"], teacher_layer="2")
    with pytest.raises(ValueError, match="numbers of layers must be equal on both sides, got 2 of the student and 1"):
        cg.Distiller(net(0, (9, 7)), net(1, (4, 5)), [term], example=points[:2])


def test_a_configuration_may_give_the_teacher_a_dissimilarity_of_its_own():
    from congruence.config import load_config

    config = load_config("digits/perception_coherence", ["stages.student.terms.1.teacher_dissimilarity=euclidean"])
    assert config.stages["student"].terms[1].term().hyperparameters["teacher_dissimilarity"] == "euclidean"
