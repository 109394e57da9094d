"""Methods with two named losses on the embeddings: relational distillation and metric transfer."""

import pytest
import torch
from torch import nn

import congruence as cg
from congruence.losses import (
    metric_transfer_absolute_loss,
    metric_transfer_relative_loss,
    rkd_angle_loss,
    rkd_distance_loss,
)


def net(seed, width, classes=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, classes))


def distiller(*terms, width=5):
    return cg.Distiller(net(0, 5), net(1, width), list(terms), example=points()[:2])


def points():
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


def rows(made):
    return made.student[:2](points()), made.teacher.module[:2](points())


def test_rkd_has_a_weight_for_each_part():
    made = distiller("rkd", width=4)
    out, (student, teacher) = made(points()), rows(made)
    distance, angle = rkd_distance_loss(student, teacher), rkd_angle_loss(student, teacher)
    torch.testing.assert_close(out.terms, {"rkd.distance": distance, "rkd.angle": angle})
    torch.testing.assert_close(out.loss, 25 * distance + 50 * angle)
    other = distiller(cg.Term("rkd", weight={"distance": 1, "angle": 2}), width=4)
    torch.testing.assert_close(other(points()).loss, distance + 2 * angle)
    with pytest.raises(ValueError, match="one for each part of 'rkd' \\('angle' and 'distance'\\)"):
        cg.Term("rkd", weight={"angles": 2.0})


@pytest.mark.parametrize("width", [5, 4])
def test_mkt_maps_what_is_compared_itself_where_widths_differ(width):
    made = distiller("mkt", width=width)
    out, (student, teacher) = made(points()), rows(made)
    (projector,) = made.methods["mkt"].projectors
    assert isinstance(projector, nn.Identity) == (width == 5)
    expected = {
        "mkt.absolute": metric_transfer_absolute_loss(projector(student), teacher),
        "mkt.relative": metric_transfer_relative_loss(student, teacher),
    }
    torch.testing.assert_close(out.terms, expected)
    torch.testing.assert_close(out.loss, sum(expected.values()))
    out.loss.backward()
    assert all(p.grad is not None for p in projector.parameters())


@pytest.mark.parametrize("key", ["rkd", "mkt"])
def test_layers_are_summed(key):
    made = distiller(cg.Term(key, student_layer=["1", "2"], teacher_layer=["1", "2"]))
    terms = made(points()).terms
    parts = [distiller(cg.Term(key, student_layer=layer, teacher_layer=layer))(points()).terms for layer in ("1", "2")]
    torch.testing.assert_close(terms, {name: parts[0][name] + parts[1][name] for name in terms})
    with pytest.raises(ValueError, match="got 1 of the student and 2 of the teacher"):
        distiller(cg.Term(key, student_layer="1", teacher_layer=["1", "2"]))
