"""Banks may be written before the backward that reads them, and a plain loss pays nothing for that."""

from __future__ import annotations

import contextlib

import pytest
import torch
from _harness.fits import data, distiller
from _harness.toys import Bank, Queue

import congruence as cg
from congruence import Term
from congruence.distiller.signals import buffers_copied_for_backward
from congruence.losses import PktLoss
from congruence.methods import Clock, LossMethod, Needs, Signals


def banked():
    torch.manual_seed(0)
    parts = distiller()
    points = data().tensors[0]
    made = cg.Distiller(
        parts.teacher.module, parts.student, [Term(Bank())], example=points[:4], facts=cg.data.facts(data())
    )
    made.methods["Bank"].bank.normal_()
    return made


@pytest.mark.parametrize("early", [True, False])
def test_an_update_before_the_backward_does_not_disturb_it(early):
    points, labels = data().tensors
    index = torch.arange(24)
    expected = banked().eval()
    out = expected.score(expected.capture(points, labels, index), update=False)
    out.loss.backward()
    made = banked().eval()
    captured = made.capture(points, labels, index)
    out = made.score(captured, update=early)
    bank = made.methods["Bank"].bank
    assert early != torch.equal(bank, expected.methods["Bank"].bank)
    out.loss.backward()
    pairs = [(one.grad, two.grad) for one, two in zip(expected.parameters(), made.parameters(), strict=True)]
    moved = [torch.equal(one, two) for one, two in pairs if one is not None]
    assert moved == [True] * 6  # all but the head, whose output no term reads
    assert [two is None for _, two in pairs] == [one is None for one, _ in pairs]


def test_a_plain_loss_copies_nothing():
    assert isinstance(buffers_copied_for_backward(LossMethod(PktLoss(), Needs())), contextlib.nullcontext)


def test_only_what_is_saved_is_copied(monkeypatch):
    made, copies = banked(), []
    points, labels = data().tensors
    captured = made.capture(points, labels, torch.arange(24))
    clone = torch.Tensor.clone
    monkeypatch.setattr(torch.Tensor, "clone", lambda tensor: copies.append(tuple(tensor.shape)) or clone(tensor))
    made.score(captured)
    assert set(copies) == {tuple(made.methods["Bank"].bank.T.shape)} or set(copies) == {
        tuple(made.methods["Bank"].bank.shape)
    }
    assert len(copies) <= 2


def test_a_rerun_needs_a_model():
    signals = Signals({}, ("student",), Clock())
    with pytest.raises(RuntimeError, match="come from a cache or a file"):
        signals.rerun({})


def test_a_queue_is_run_again_with_gradient():
    points = data().tensors[0]
    parts = distiller("ce", teacher=False)
    made = cg.Distiller(None, parts.student, [Term(Queue(size=8))], example=points[:4])
    for _ in range(2):
        out = made(points[:8], views={"strong": points[:8] * 1.1})
    calls = []
    made.student.register_forward_pre_hook(lambda *_: calls.append(1))
    out = made(points[:8], views={"strong": points[:8] * 1.1})
    assert len(calls) == 4  # two views, and two of the queue
    out.loss.backward()
    assert made.student[0].weight.grad.abs().sum() > 0
