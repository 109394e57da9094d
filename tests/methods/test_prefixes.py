"""Matryoshka: a method's loss at prefixes of the student's embedding, by a term's `dims`."""

import pytest
import torch
from _harness.cases import OWN_KEYS
from torch import nn

import congruence as cg
from congruence.config.tables import TermConfig
from congruence.losses import correlation_congruence_loss, pkt_loss
from congruence.methods import Term, row
from congruence.methods.method import Clock
from congruence.methods.prefixes import Prefixes

ROWS = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))


class Unit(nn.Module):
    """A network whose output is its embedding."""

    def __init__(self, width, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(6, width)

    def forward(self, x):
        return nn.functional.normalize(self.layer(x), dim=1)


TEACHER = Unit(5, 1)
# What gives a gradient from so few rows.
MORE = {"kda": {"warmup": 1, "normalize": True}}


def distiller(*terms, width=8, **more):
    return cg.Distiller(TEACHER, Unit(width, 2), list(terms), example=ROWS[:2], **more)


def test_the_mean_over_prefixes():
    made = distiller(Term("pkt", weight=1.0, dims=(2, 4, 8)), Term("cckd", weight=1.0, dims=[3]))
    out = made(ROWS)
    with torch.no_grad():
        student, teacher = made.student(ROWS), TEACHER(ROWS)
    expected = torch.stack([pkt_loss(student[:, :dim], teacher) for dim in (2, 4, 8)]).mean()
    torch.testing.assert_close(out.terms["pkt"].detach(), expected)
    torch.testing.assert_close(out.terms["cckd"].detach(), correlation_congruence_loss(student[:, :3], teacher))
    out.loss.backward()
    gradient = made.student.layer.weight.grad
    assert bool((gradient != 0).any(1).all())


def test_the_whole_width_alone_is_the_method():
    plain, cut = (distiller(Term("rkd", dims=dims))(ROWS).loss for dims in (None, (8,)))
    torch.testing.assert_close(plain, cut)


def test_maps_and_queues_of_its_own_for_each_prefix():
    made = distiller(Term("mimic", dims=(2, 8)), Term("queue_relation", size=16, dims=(2, 4)))
    maps = [each.projectors[0] for each in made.methods["mimic"].inner]
    assert [each.weight.shape for each in maps] == [(5, 2), (5, 8)]
    out = made(ROWS)
    with torch.no_grad():
        student, teacher = made.student(ROWS), TEACHER(ROWS)
        losses = [
            (each(student[:, :dim]) - teacher).square().sum(1).mean() for each, dim in zip(maps, (2, 8), strict=True)
        ]
    torch.testing.assert_close(out.terms["mimic"].detach(), torch.stack(losses).mean())
    assert [len(each.queue) for each in made.methods["queue_relation"].inner] == [12, 12]
    out.loss.backward()
    assert all(bool((each.weight.grad != 0).any()) for each in maps)
    again = distiller(Term("mimic", dims=(2, 8)), Term("queue_relation", size=16, dims=(2, 4)))
    again.load_state_dict(made.state_dict())
    torch.testing.assert_close(again.state_dict(), made.state_dict())


def test_a_balanced_weight():
    made = distiller(Term("mimic", dims=(4, 8)), Term("pkt", weight="balanced", dims=(4, 8)))
    out = made(ROWS)
    parameters = list(made.student.parameters())
    lengths = [
        torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters, retain_graph=True)]).norm()
        for loss in (out.terms["mimic"], out.weights["pkt"] * out.terms["pkt"])
    ]
    torch.testing.assert_close(*lengths)


FEATURES = [key for key in OWN_KEYS if row(key).needs.roles == ("features",) and row(key).needs.students == "each"]


@pytest.mark.parametrize("key", FEATURES)
def test_every_method_of_features(key):
    needs = row(key).needs
    if needs.views != ("main",):
        pytest.skip("takes views, which a loader makes")
    facts = cg.data.DataFacts(size=12, labels=torch.arange(12) % 3, classes=3) if needs.facts or needs.labels else None
    made = distiller(Term(key, dims=(4, 8), **MORE.get(key, {})), **({} if facts is None else {"facts": facts}))
    for epoch in range(2) if needs.epochs else ():  # kda's landmarks begin at the end of the first
        made.begin_epoch(Clock(epoch=epoch, epochs=2))
        if epoch == 0:
            made(ROWS, torch.arange(12) % 3, torch.arange(12))
            made.end_epoch()
    out = made(ROWS, torch.arange(12) % 3, torch.arange(12))
    out.loss.backward()
    assert bool(torch.isfinite(out.loss))
    assert bool((made.student.layer.weight.grad != 0).any())


def test_what_is_refused():
    with pytest.raises(ValueError, match="`dims` must be different whole numbers >= 1, at least one, got"):
        Term("pkt", dims=())
    with pytest.raises(ValueError, match=r"`dims` must be different whole numbers >= 1, at least one, got \(4, 4\)"):
        Term("pkt", dims=(4, 4))
    with pytest.raises(ValueError, match="`dims` must be given for a method that reads only the embedding"):
        Term("kd", dims=(4,))
    with pytest.raises(ValueError, match="`standardize` must be left out beside `dims`"):
        Term("kd", dims=(4,), standardize=True)
    with pytest.raises(ValueError, match="`dims` must be left out beside a Method"):
        Term(row("pkt").make(), dims=(4,))
    with pytest.raises(ValueError, match="`dims` must be numbers up to the width 8 of the student's embedding, got 9"):
        distiller(Term("pkt", dims=(4, 9)))
    with pytest.raises(ValueError, match="`methods` must be one for each of 2 prefixes, got 1"):
        Prefixes([row("pkt").make()], (2, 4))


def test_in_a_configuration():
    term = TermConfig(key="pkt", dims=[32, 64]).term()
    assert term.describe()["dims"] == [32, 64]
    assert repr(term) == "Term('pkt', weight=30000.0, dims=[32, 64])"
    assert "dims" not in Term("pkt").describe()
    with pytest.raises(ValueError, match="different whole numbers"):
        TermConfig(key="pkt", dims=[0])
