"""WKD of logits: the costs between classes, given or made of what the first epoch shows of the teacher."""

from __future__ import annotations

import math

import pytest
import torch
from _harness import golden
from torch import nn

import congruence as cg
from congruence.losses import class_cost_matrix
from congruence.methods import Probe, Signals, row


def network(width, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 3))


INPUTS = torch.randn(24, 6, generator=torch.Generator().manual_seed(3))
LABELS = torch.tensor([0, 1, 2, -1, 1, 1, 0, 2] * 3)


def distiller(**words):
    return cg.Distiller(network(5, 1), network(3), [cg.Term("wkd_l", **words)], example=INPUTS[:2])


def test_equals_the_golden():
    stored = golden.arrays("wkd_l_sep_A")
    stored = {name: value.double() if value.is_floating_point() else value for name, value in stored.items()}
    method = row("wkd_l").make(cost=stored["in_cost"], non_target_weight=30.0, temperature=4.0)
    shapes = {(side, "logits"): (stored["in_s"].shape,) for side in ("student", "teacher")}
    method.build(Probe(shapes, {}, {}, ("student",)))
    method.double().costs.copy_(stored["in_cost"])  # they were kept in float32
    student = stored["in_s"].requires_grad_()
    logits = {("student", "main", "logits"): (student,), ("teacher", "main", "logits"): (stored["in_t"],)}
    value = method.loss(Signals(logits, ("student",), labels=stored["in_y"].long()))["loss"]
    torch.testing.assert_close(value, stored["loss"], rtol=1e-10, atol=0)
    value.backward()
    torch.testing.assert_close(student.grad, stored["grad_s"], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("compared", ["covariances", "samples"])
def test_the_first_epoch_makes_the_costs(compared):
    made = distiller(samples=4, sharpness=2.0, compared=compared)
    method = made.methods["wkd_l"]
    made.begin_epoch(0)
    unlike = -math.expm1(-2.0) * (1 - torch.eye(3))
    for start in range(0, 24, 8):
        torch.testing.assert_close(method.costs, unlike)
        made(INPUTS[start : start + 8], LABELS[start : start + 8])
    made.end_epoch()
    features = made.teacher.module[:2](INPUTS)
    firsts = torch.stack([features[label == LABELS][:4] for label in range(3)])
    torch.testing.assert_close(method.costs, class_cost_matrix(firsts, sharpness=2.0, compared=compared))
    before = method.costs.clone()
    assert method.gathered.numel() == method.counts.numel() == 0
    made.begin_epoch(1)
    made(INPUTS, LABELS)
    made.end_epoch()
    assert torch.equal(method.costs, before)


def test_a_class_of_few_samples_is_compared_by_these_and_a_missing_one_by_none():
    made = distiller(samples=8, sharpness=0.0)
    made.begin_epoch(0)
    labels = LABELS.where(LABELS != 2, -1)  # 6 samples of class 0, 9 of class 1
    made(INPUTS, labels)
    made.end_epoch()
    features = made.teacher.module[:2](INPUTS).double()
    covariances = [features[labels == label][:8].T.cov(correction=0).flatten() for label in (0, 1)]
    expected = 1 - torch.nn.functional.cosine_similarity(*covariances, dim=0)
    costs = made.methods["wkd_l"].costs
    torch.testing.assert_close(costs[0, 1].double(), expected, rtol=1e-5, atol=1e-6)
    assert costs[2].tolist() == [1.0, 1.0, 0.0]


def test_the_mean_over_all_orders_of_the_samples_tells_no_classes_apart():
    """Which is why covariances are compared by default."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64)
    features[1] = 2 * features[0]
    features[2] = features[0].flip(1)
    features -= features.mean(1, keepdim=True)
    costs = [
        class_cost_matrix(
            torch.stack([rows[torch.randperm(6, generator=generator)] for rows in features]), sharpness=0.0
        )
        for _ in range(2000)
    ]
    grams = features @ features.mT
    sizes, lengths = grams.diagonal(dim1=1, dim2=2).sum(1), grams.flatten(1).norm(dim=1)
    of_all = 1 - sizes[:, None] * sizes / (5 * lengths[:, None] * lengths)
    torch.testing.assert_close(torch.stack(costs).mean(0)[0, 1:], of_all[0, 1:], rtol=0, atol=0.015)
    torch.testing.assert_close(of_all[0, 1], of_all[0, 2])  # though the second is the first, and the third is not
    alike, other = class_cost_matrix(features, sharpness=0.0, compared="covariances")[0, 1:]
    assert alike < 1e-12
    assert other > 0.2


def test_a_cost_may_be_given():
    cost = class_cost_matrix(torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0)))
    made = distiller(cost=cost)
    assert torch.equal(made.methods["wkd_l"].costs, cost)
    assert made.terms[0].needs.roles == ("logits",)
    made(INPUTS, LABELS).loss.backward()
    assert made.student[2].weight.grad.any()
    for wrong in (cost[:, :2], -cost, [[0.0, "a"], [1.0, 0.0]], float("nan") * cost, torch.zeros(2, 2)):
        with pytest.raises(ValueError, match=r"`WassersteinLogits`: `cost` must be"):
            distiller(cost=wrong)


def test_a_loop_that_tells_of_no_epochs_is_refused():
    with pytest.raises(ValueError, match="The term 'wkd_l' works by epochs"):
        distiller()(INPUTS, LABELS)
