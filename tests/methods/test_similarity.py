"""Jasper's three parts, against their definition."""

import pytest
import torch
from _harness.fits import data, net
from torch import nn

import congruence as cg
from congruence.losses import correlation_congruence_loss, cosine_loss, relative_similarity_loss
from congruence.methods.similarity import SimilarityDistillation


def distiller(**hyperparameters):
    torch.manual_seed(3)
    return cg.Distiller(net(0, 7), net(1), [cg.Term("similarity", **hyperparameters)], example=data().tensors[0][:4])


@pytest.mark.parametrize("widths", [None, (2, 7)])
def test_the_parts(widths):
    made, points = distiller(**{"widths": widths} if widths else {}), data().tensors[0][:9]
    out = made(points)
    method = made.methods["similarity"]
    with torch.no_grad():
        teacher = nn.Sequential(*list(made.teacher.module)[:-1]).eval()(points)
    rows = method.projector(nn.Sequential(*list(made.student)[:-1])(points))
    cut = [rows[:, :width] for width in widths or (7,)]
    means = [
        sum(correlation_congruence_loss(each, teacher, kernel="bilinear") for each in cut) / len(cut),
        sum(relative_similarity_loss(each, teacher) for each in cut) / len(cut),
    ]
    torch.testing.assert_close(out.terms["similarity.cosine"], cosine_loss(rows, teacher), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(out.terms["similarity.similarity"], means[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(out.terms["similarity.relative"], means[1], rtol=1e-4, atol=1e-6)
    weights = {"cosine": 10, "similarity": 200, "relative": 20}
    total = sum(weights[part] * out.terms[f"similarity.{part}"] for part in weights)
    torch.testing.assert_close(out.loss, total)


@pytest.mark.parametrize("widths", [[], [0], "7", [3, 2.5]])
def test_widths_are_whole_numbers(widths):
    with pytest.raises(ValueError, match="`widths` must be a list of whole numbers >= 1, or None, got"):
        SimilarityDistillation(widths=widths)


def test_a_width_beyond_the_teachers():
    with pytest.raises(ValueError, match="`widths` must be numbers up to the teacher's width, got 8 of 7"):
        distiller(widths=[3, 8])
