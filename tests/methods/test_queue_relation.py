"""Relations to a queue of the teacher's embeddings: what is in it, and when."""

import pytest
import torch
from _harness.fits import constant, data, net
from torch import nn

import congruence as cg
from congruence.losses import queue_relation_loss
from congruence.methods.queue_relation import QueueRelation


def distiller(**hyperparameters):
    torch.manual_seed(3)
    teacher, student = net(0, 7), net(1)
    return cg.Distiller(teacher, student, [cg.Term("queue_relation", **hyperparameters)], example=data().tensors[0][:4])


def embeddings(model, points):
    with torch.no_grad():
        return nn.Sequential(*list(model)[:-1]).eval()(points)


def test_the_newest_rows_of_the_teacher_are_in_it_in_their_order():
    made, points = distiller(size=10), data().tensors[0]
    teacher = embeddings(made.teacher.module, points)
    method = made.methods["queue_relation"]
    assert method.queue.shape == (0, 7)
    for end in (8, 16, 24):
        made(points[end - 8 : end])
        torch.testing.assert_close(method.queue, teacher[max(0, end - 10) : end])


def test_the_loss_is_to_what_was_there_before_the_batch():
    made, points = distiller(size=10, student_temperature=0.2), data().tensors[0]
    teacher = embeddings(made.teacher.module, points)
    method = made.methods["queue_relation"]
    for start, queue in ((0, teacher[:8]), (8, teacher[:8]), (16, teacher[6:16])):
        some = points[start : start + 8]
        rows = method.projector(nn.Sequential(*list(made.student)[:-1])(some))
        expected = queue_relation_loss(rows, teacher[start : start + 8], queue, student_temperature=0.2)
        torch.testing.assert_close(made(some).terms["queue_relation"], expected, rtol=1e-4, atol=1e-6)


def test_validation_leaves_it_alone():
    made, points = distiller(), data().tensors[0]
    made(points[:8])
    before = made.methods["queue_relation"].queue.clone()
    made.eval()(points[8:16])
    assert torch.equal(made.methods["queue_relation"].queue, before)


def test_a_state_has_it_at_any_length():
    loader = cg.data.loader(data(), batch_size=8, seed=3)
    half = distiller(size=20)
    cg.fit(half, loader, None, constant(max_steps=2))
    assert half.methods["queue_relation"].queue.shape == (16, 7)
    again = distiller(size=20)
    again.load_state_dict(half.state_dict())
    assert torch.equal(again.methods["queue_relation"].queue, half.methods["queue_relation"].queue)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"size": 0}, "`size` must be an integer >= 1, got 0"),
        ({"student_temperature": 0.0}, "`student_temperature` must be a number > 0, got 0.0"),
    ],
)
def test_what_is_wrong_is_said(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        QueueRelation(**given)
