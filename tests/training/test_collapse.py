"""A student whose features collapse while its loss falls is told of, once; others are not."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from _harness.fits import constant, data, distiller, net, same_state

import congruence as cg
from congruence.training.collapse import Spread, spread


def told(caplog):
    return [record.getMessage() for record in caplog.records if "collapse" in record.getMessage()]


def test_spread_by_definition():
    rows = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cosines = [float(torch.cosine_similarity(rows[i], rows[j], dim=0)) for i in range(7) for j in range(7) if i != j]
    values = torch.linalg.svdvals(rows - rows.mean(0)).tolist()
    shares = [value / sum(values) for value in values]
    rank = math.exp(-sum(share * math.log(share) for share in shares))
    assert spread(rows) == pytest.approx(Spread(sum(cosines) / len(cosines), rank), abs=1e-5)
    assert spread(torch.ones(3, 2)) == Spread(1.0, 0.0)


def test_a_collapse_is_told_once(caplog):
    made = distiller("pkt")

    def squeeze(event):  # what a step too large does
        if event.kind == "step":
            with torch.no_grad():
                made.student[1].weight.fill_(0.01)
                made.student[1].bias.fill_(1.0)

    cg.fit(made, cg.data.loader(data(), batch_size=8), options=constant(epochs=3, callbacks=(squeeze,)))
    assert len(told(caplog)) == 1
    assert "The student's features collapse: two samples have a mean cosine of " in told(caplog)[0]
    assert "a smaller weight of 'pkt'" in told(caplog)[0]


@pytest.mark.parametrize("terms", [("ce", "kd"), ("ce", "pkt")])
def test_nothing_is_told_of_a_run_as_it_should_be_and_nothing_changes(caplog, terms, monkeypatch):
    runs = []
    for watched in (True, False):
        if not watched:
            monkeypatch.setattr("congruence.training.collapse.Collapse.begin", lambda *_: None)
        made = distiller(*terms)
        cg.fit(made, cg.data.loader(data(), batch_size=8), options=constant(epochs=3))
        runs.append(made)
    assert told(caplog) == []
    same_state(*runs)


def test_what_cannot_be_measured_stops_nothing(caplog):
    class Trains(torch.nn.Sequential):
        def forward(self, x):
            if not self.training:
                raise RuntimeError("only training")
            return super().forward(x)

    made = cg.Distiller(net(0, 7), Trains(*net(1)), ["pkt"], example=data().tensors[0][:4])
    with caplog.at_level(logging.INFO, "congruence"):
        cg.fit(made, cg.data.loader(data(), batch_size=8), options=constant(epochs=1, evaluate=lambda _: {"x": 0.0}))
    assert [line for line in told(caplog) if "only training" in line]
