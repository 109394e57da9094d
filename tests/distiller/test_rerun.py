"""Kept inputs run again in the middle of a step, and leave the model as they found it."""

import pytest
import torch
from torch import nn

import congruence as cg
from congruence import Method, Needs


class Again(Method):
    """Runs the first rows of its batch again, all of one kind."""

    needs = Needs(teacher=False, inputs=True)

    def loss(self, signals):
        rows = signals.inputs["main"]
        kept = rows[:1].expand_as(rows)
        self.seen = signals.rerun({"main": kept}).one("student")
        if getattr(self, "fails", False):
            signals.rerun({"main": kept[:, :1]})
        return {"loss": self.seen.square().mean()}


@pytest.fixture
def made():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    student[2].eval()
    with torch.no_grad():
        student[1].running_mean.normal_()
    return cg.Distiller(None, student, [cg.Term(Again())], example=torch.zeros(2, 4))


def test_kept_inputs_use_the_running_statistics_and_leave_them(made):
    points = torch.randn(6, 4)
    captured = made.capture(points)
    norm = made.student[1]
    before = [norm.running_mean.clone(), norm.running_var.clone(), int(norm.num_batches_tracked)]
    made.score(captured).loss.backward()
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(norm.running_var, before[1])
    assert int(norm.num_batches_tracked) == before[2] == 1
    assert (norm.training, made.student[2].training) == (True, False)
    assert made.student[0].weight.grad.any()
    with torch.no_grad():
        expected = made.eval().student[:3](points[:1])
    torch.testing.assert_close(made.methods["Again"].seen.detach(), expected.expand(6, 5))


def test_a_forward_that_fails_leaves_the_modes(made):
    made.methods["Again"].fails = True
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        made(torch.randn(6, 4))
    assert (made.student[1].training, made.student[2].training) == (True, False)
