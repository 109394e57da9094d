"""One step: accumulated, clipped, and skipped by a flag."""

from __future__ import annotations

import warnings

import pytest
import torch
from _harness.fits import constant, data, distiller, net, same_state
from torch import nn

import congruence as cg
from congruence import Term
from congruence.training.optim import Rates, make_optimizer, momentum_begun, step_unless
from congruence.training.options import OptimizerOptions, ScheduleOptions


def plain(*terms):
    """A distiller without batch norm: a batch's parts give the batch's gradient."""
    torch.manual_seed(1)
    student = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    return cg.Distiller(net(0, 7), student, terms, example=data().tensors[0][:4])


def batches(size):
    return cg.data.loader(data(), batch_size=size, seed=3)


def test_accumulated_parts_are_the_whole():
    whole, parts = plain("ce", "kd", "mimic"), plain("ce", "kd", "mimic")
    parts.load_state_dict(whole.state_dict())
    cg.fit(whole, batches(12), options=constant(epochs=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = cg.fit(parts, batches(4), options=constant(epochs=1, accumulate=3))
    assert result.steps == 2
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_relational_terms_are_warned_of_with_the_size_they_see():
    with pytest.warns(UserWarning, match=r"accumulate=3 does not enlarge the batch of pkt: each loss sees 4 samples"):
        cg.fit(plain("ce", "kd", "pkt"), batches(4), options=constant(epochs=1, accumulate=3))
    with pytest.warns(UserWarning, match=r"of pkt: each loss sees one batch\. A larger batch with `micro_batch=`"):
        cg.fit(plain("pkt"), [data().tensors] * 2, options=constant(epochs=1, accumulate=2))


def test_batch_norm_moves_with_every_batch_and_the_last_step_may_be_short():
    made = distiller()
    result = cg.fit(made, batches(5), options=constant(epochs=1, accumulate=2))
    assert result.steps == 3
    assert int(made.student[1].num_batches_tracked) == 5


def test_the_gradient_is_clipped_over_all_parameters():
    made, own = plain("ce", "mimic"), plain("ce", "mimic")
    own.load_state_dict(made.state_dict())
    cg.fit(made, [data().tensors], options=constant(epochs=1, gradient_clip=0.1, teacher_speed="exact"))
    out = own.train()(*data().tensors)
    out.loss.backward()
    assert torch.nn.utils.clip_grad_norm_(own.parameters(), 0.1) > 0.1
    make_optimizer(own.parameter_groups(), OptimizerOptions()).step()
    same_state(made, own)


def test_a_flag_skips_the_step():
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    weight.grad = torch.ones(3)
    step_unless(optimizer, torch.tensor(True))
    assert weight.tolist() == [1, 1, 1]
    step_unless(optimizer, torch.tensor(False))
    assert weight.tolist() == [0, 0, 0]


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_fused_optimizer_whose_first_step_is_skipped_starts_from_no_momentum(nesterov):
    """Torch leaves uninitialised memory as the momentum; a first step of fp16 is nearly always skipped."""
    start = torch.linspace(-1, 1, 1000)
    skipping, plain = (nn.Parameter(start.clone()) for _ in range(2))
    optimizers = [
        torch.optim.SGD([parameter], lr=0.1, momentum=0.9, nesterov=nesterov, fused=fused)
        for parameter, fused in ((skipping, True), (plain, None))
    ]
    full_of_nan = [torch.full((1000,), float("nan")) for _ in range(20)]
    del full_of_nan  # the memory that comes next
    skipping.grad = torch.full((1000,), float("inf"))
    assert momentum_begun(optimizers[0])
    optimizers[0].grad_scale, optimizers[0].found_inf = None, torch.ones(())
    optimizers[0].step()
    assert torch.equal(skipping, start)
    del optimizers[0].grad_scale, optimizers[0].found_inf
    for number in range(1, 4):
        for parameter, optimizer in zip((skipping, plain), optimizers, strict=True):
            parameter.grad = number * start
            optimizer.step()
        torch.testing.assert_close(skipping, plain)


def test_a_first_step_with_dampening_is_not_skipped_by_a_flag():
    """Torch's first step leaves the dampening out, which no momentum of 0 can give: the flag is read instead."""
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, dampening=0.5, fused=True)
    parameter.grad = torch.ones(3)
    assert not momentum_begun(optimizer)
    optimizer.step()
    assert momentum_begun(optimizer)


def test_a_parameter_that_begins_later_starts_from_no_momentum():
    """Torch's fused SGD raises where some have momentum and others none, as of a term that starts at a later epoch."""
    weights = []
    for fused in (True, False):
        first, late = (nn.Parameter(torch.ones(3)) for _ in range(2))
        optimizer = torch.optim.SGD([first, late], lr=0.1, momentum=0.9, fused=fused)
        for step in range(3):
            first.grad, late.grad = torch.ones(3), torch.full((3,), 2.0) if step else None
            step_unless(optimizer, torch.tensor(False))
        weights.append(torch.stack([first, late]).detach())
    torch.testing.assert_close(*weights)


def test_optimizers_are_torch_s_with_the_options():
    groups = [{"name": "students", "params": [nn.Parameter(torch.ones(2))]}]
    sgd = make_optimizer(groups, OptimizerOptions(lr=0.3, momentum=0.5, nesterov=True, weight_decay=0.1))
    assert type(sgd) is torch.optim.SGD
    assert [sgd.defaults[k] for k in ("lr", "momentum", "nesterov", "weight_decay")] == [0.3, 0.5, True, 0.1]
    adamw = make_optimizer(groups, OptimizerOptions("adamw", lr=0.01, betas=(0.8, 0.9)))
    assert type(adamw) is torch.optim.AdamW
    assert (adamw.defaults["betas"], adamw.param_groups[0]["name"]) == ((0.8, 0.9), "students")


def test_rates_keep_each_group_s_own_height():
    first, second = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [first]}, {"params": [second], "lr": 0.01}], lr=0.1)
    rates = Rates([optimizer], ScheduleOptions("step", milestones=(1,)), 2)
    rates.set(0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]
    optimizer.load_state_dict(optimizer.state_dict())
    rates.set(1.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.001])
    assert rates.first == pytest.approx(0.01)
    still = Rates([optimizer], None, 2)
    still.set(0.0)
    assert still.first == pytest.approx(0.01)


def test_a_term_without_gradient_counts_and_moves_nothing(tmp_path):
    class Constant(cg.Method):
        needs = cg.Needs(roles=("logits",), teacher=False, scope="sample")

        def loss(self, signals):
            return {"loss": signals.one("student", "logits").detach().square().mean()}

    with_it, without = plain("ce", Term(Constant())), plain("ce")
    cg.fit(with_it, batches(8), options=constant(out=tmp_path / "run", log_every=1))
    cg.fit(without, batches(8), options=constant())
    same_state(with_it.student, without.student)


def test_terms_behind_frozen_layers_are_told():
    made = plain("pkt", "rkd")
    made.student[0].requires_grad_(False)
    with pytest.raises(ValueError, match=r"the terms \(pkt, rkd.distance, rkd.angle\) give the student no gradient"):
        cg.fit(made, batches(12), options=constant(epochs=1))
