"""Views that are distorted leave the running statistics of a student's batch norms alone, in every way of running."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import congruence as cg
from congruence import Needs, Term
from congruence.losses import cross_entropy_loss
from congruence.training.modes import compiled

INPUTS = torch.randn(12, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(12) % 3
BATCH = {"inputs": INPUTS, "labels": LABELS, "views": {"weak": INPUTS + 1, "strong": 5 * INPUTS, "main": INPUTS}}


class OfStrong(cg.Method):
    """Reads the view "strong" as any other view is read."""

    needs = Needs(roles=("logits",), views=("main", "strong"), teacher=False, labels=True)

    def loss(self, signals):
        return {"loss": cross_entropy_loss(signals.one("student", "logits", "strong"), signals.labels)}


def net(seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.0), nn.Linear(4, 3)).double()


def distiller(*terms):
    return cg.Distiller(net(2), net(1), list(terms), example=INPUTS[:2])


def tracked(*views):
    """The running statistics after forwards of these views in turn."""
    student = net(1).train()
    for view in views:
        student(BATCH["views"][view])
    return dict(student.named_buffers())


def after(made, **more):
    made(**BATCH, **more).loss.backward()
    return dict(made.student.named_buffers())


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, buffer in expected.items():
        torch.testing.assert_close(found[name], buffer, rtol=0, atol=1e-12)


def test_running_statistics_are_of_the_other_views():
    assert not torch.equal(tracked("main", "weak")["1.running_var"], tracked("main", "weak", "strong")["1.running_var"])
    same(after(distiller("ce", "mlld")), tracked("main", "weak"))
    same(after(distiller("mlld")), tracked("weak"))


def test_the_loss_and_the_gradients_are_those_of_batch_statistics():
    made, plain = distiller("mlld"), distiller("mlld")
    method = plain.bindings["mlld"].method
    method.needs = replace(method.needs, distorted=())
    found, expected = made(**BATCH), plain(**BATCH)
    assert torch.equal(found.loss, expected.loss)
    found.loss.backward()
    expected.loss.backward()
    for one, other in zip(made.student.parameters(), plain.student.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert not torch.equal(made.student[1].running_var, plain.student[1].running_var)
    assert made.student[1].track_running_stats


def test_the_second_view_of_other_names_is_the_distorted_one():
    assert Term("mlld", views=["a", "b"]).needs.distorted == ("b",)


def test_chunks_leave_them_alone_in_both_passes():
    student = net(1).train()
    for view in ("main", "weak"):
        for chunk in BATCH["views"][view].split(4):
            student(chunk)
    same(after(distiller("ce", "mlld"), micro_batch=4), dict(student.named_buffers()))


def test_compiled_models_leave_them_alone(monkeypatch):
    monkeypatch.setattr("congruence.models.compiled.BACKEND", "eager")  # traces, and compiles nothing
    made = distiller("ce", "mlld")
    with compiled(made, True):
        for _ in range(2):
            made(**BATCH).loss.backward()
    same(dict(made.student.named_buffers()), tracked("main", "weak", "main", "weak"))


def test_a_term_of_weight_0_leaves_out_nothing():
    reads = Term(OfStrong(), name="reads")
    alone, beside = distiller("ce", copy.deepcopy(reads)), distiller("ce", reads, Term("mlld", weight=0.0))
    same(after(beside), after(alone))
    same(dict(alone.student.named_buffers()), tracked("main", "strong"))


def test_norms_that_are_held_stay_as_they_are():
    made = distiller("ce", "mlld")
    made.student[1].eval()
    same(after(made), tracked())
    assert not made.student[1].training


@pytest.mark.parametrize("distorted", [("weak", "strong"), ("other",)])
def test_some_views_must_be_left(distorted):
    with pytest.raises(
        ValueError, match=r"^`Needs`: `distorted` must be some of the views, and not all, .* of \('weak"
    ):
        Needs(views=("weak", "strong"), distorted=distorted)
