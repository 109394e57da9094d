"""Standardised logits, those of regions, and samples that count by the teacher's doubt: alone and together."""

from __future__ import annotations

import re

import pytest
import torch
from _harness import golden
from _harness.cases import CHANGED, CHANGES
from torch import nn

import congruence as cg
from congruence.bench import identity
from congruence.config.tables import TermConfig
from congruence.losses import distillation_loss, region_logits, standardize_logits
from congruence.methods import Signals, Term, row
from congruence.testing import check_terms


def network(width, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)
    )


IMAGES, LABELS = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 1, -1, 3, 2, 1])


def distiller(*terms):
    return cg.Distiller(network(5, 1), network(3), list(terms), example=IMAGES[:2])


def value(*terms):
    made = distiller(*terms).double()
    out = made(IMAGES.double(), LABELS)
    gradients = torch.autograd.grad(out.loss, list(made.student.parameters()))
    return {"loss": out.loss, **dict(enumerate(gradients))}


@pytest.mark.parametrize(
    ("changed", "row_of_its_own"),
    [
        (Term("kd", weight=9.0, temperature=2.0, standardize=True), Term("lskd")),
        (Term("ttm", exponent=0.2, uncertainty=0.2), Term("ttm", exponent=0.2, weighted=True)),
        *(
            (Term(base, regions=True, weight=1.0, **words), Term("sdd", base=base, complementary_weight=1.0, **words))
            for base, words in (("dkd", {"temperature": 3.0, "beta": 8.0}), ("nkd", {"temperature": 2.0, "gamma": 0.7}))
        ),
    ],
    ids=["lskd", "wttm", "sdd-dkd", "sdd-nkd"],
)
def test_a_change_gives_what_the_row_of_its_own_gives(changed, row_of_its_own):
    torch.testing.assert_close(value(changed), value(row_of_its_own))


def test_standardised_dkd_equals_the_golden():
    stored = golden.arrays("lskd_dkd_A")
    words = golden.description("lskd_dkd_A")["hyperparameters"]
    student = stored["in_s"].double().requires_grad_()
    logits = {("student", "main", "logits"): (student,), ("teacher", "main", "logits"): (stored["in_t"].double(),)}
    words = {"temperature": words["temperature"], "alpha": words["alpha"], "beta": words["beta"]}
    method = Term("dkd", standardize=True, **words).make()
    found = method.loss(Signals(logits, ("student",), labels=stored["in_y"].long()))["loss"]
    torch.testing.assert_close(found, stored["loss"], rtol=1e-6, atol=0)
    found.backward()
    torch.testing.assert_close(student.grad, stored["grad_s"], rtol=1e-5, atol=1e-7)


def test_all_three_together_by_hand():
    made = distiller(Term("kd", temperature=2.0, standardize=True, regions=True, uncertainty=0.5))
    regions = [
        region_logits(model[1](model[0](IMAGES)), model[4].weight, model[4].bias)
        for model in (made.student, made.teacher.module)
    ]
    rows = []
    for r in range(21):
        doubt = regions[1][:, :, r].softmax(1).sqrt().sum(1)
        pair = [standardize_logits(each[:, :, r]) for each in regions]
        rows.append(doubt * distillation_loss(*pair, temperature=2.0, reduction="none"))
    torch.testing.assert_close(made(IMAGES, LABELS).terms["kd"], torch.stack(rows).mean())


def test_a_relation_is_of_the_standardised_logits():
    made = distiller(Term("dist", standardize=True, weight=1.0))
    student, teacher = (standardize_logits(model(IMAGES)) for model in (made.student, made.teacher.module))
    torch.testing.assert_close(made(IMAGES, LABELS).terms["dist"], cg.losses.dist_loss(student, teacher))


def test_what_compares_with_labels_stays_on_the_raw_logits():
    signals = {
        ("student", view, "logits"): (torch.randn(5, 3, generator=torch.Generator().manual_seed(k)),)
        for k, view in enumerate(("weak", "strong"))
    }
    signals |= {("teacher", view, "logits"): (2 * signals["student", view, "logits"][0] + 1,) for _, view, _ in signals}
    given = Signals(signals, ("student",), labels=torch.tensor([0, 1, 2, 0, 1]))
    plain, changed = (Term("mlld", standardize=flag).make().loss(given) for flag in (False, True))
    assert torch.equal(plain["ce"], changed["ce"])
    assert plain["instance"] > 0.1
    for part in ("instance", "class", "batch"):  # the teacher's logits are the student's but for scale and shift
        torch.testing.assert_close(changed[part], torch.zeros(()), rtol=0, atol=1e-6)


def test_balanced_terms_change_their_logits_too():
    made = distiller("ce", Term("dkd", weight="balanced", share=0.5, **CHANGES))
    parameters = list(made.student.parameters())
    out = made(IMAGES, LABELS)
    norms = {
        name: torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters, retain_graph=True)]).norm()
        for name, value in out.terms.items()
    }
    torch.testing.assert_close(out.weights["dkd"] * norms["dkd"], 0.5 * norms["ce"])


def test_a_description_names_changes_alone():
    plain, changed = Term("dkd"), Term("dkd", **CHANGES)
    assert not set(CHANGES) & set(plain.describe())
    assert changed.describe() == {**plain.describe(), **CHANGES}
    assert repr(changed) == "Term('dkd', weight=1.0, standardize=True, regions=True, uncertainty=0.3)"
    assert repr(plain) == "Term('dkd', weight=1.0)"
    config = TermConfig(key="dkd", **CHANGES)
    assert config.term().describe() == changed.describe()
    plain_told, told = (identity._term(TermConfig(key="dkd", **words)) for words in ({}, CHANGES))
    assert told == {**plain_told, **CHANGES}


@pytest.mark.parametrize(
    ("key", "words", "sentence"),
    [
        (
            "pkt",
            {"standardize": True},
            "`standardize` must be given for a method that compares the logits of student and",
        ),
        (
            "ce",
            {"standardize": True},
            "`standardize` must be given for a method that compares the logits of student and",
        ),
        (
            "ce",
            {"regions": True, "uncertainty": 1.0},
            "`regions`, `uncertainty` must be given for a method that compares",
        ),
        (
            "dist",
            {"regions": True},
            "`regions` must be given for a loss with a value for each sample, got DistLoss, which has none.",
        ),
        (
            "mlld",
            {"uncertainty": 0.5},
            "`uncertainty` must be given for a loss with a value for each sample, got Multi",
        ),
        ("kd", {"uncertainty": 0.0}, "`uncertainty` must be a number > 0 or None, got 0.0."),
        ("kd", {"standardize": 1}, "`standardize` must be True or False, got 1."),
        (row("kd").make(), {"regions": True}, "`regions` must be left out beside a Method"),
    ],
)
def test_what_cannot_be_changed_is_told(key, words, sentence):
    with pytest.raises(ValueError, match=re.escape(f"`Term`: {sentence}")):
        Term(key, **words)


def test_networks_without_such_classifiers_are_told():
    student = nn.Sequential(*network(3)[:4], nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 4))
    with pytest.raises(ValueError, match="got 7 of the student and 4 of the teacher"):
        cg.Distiller(network(5), student, [Term("kd", regions=True)], example=IMAGES[:2])


def test_the_contract():
    """That of two ranks is checked beside the catalogue's."""
    for case in CHANGED:
        check_terms(case)


def test_two_passes_are_one():
    found = []
    for micro_batch in (None, 4):
        made = distiller(Term("dkd", **CHANGES)).double()
        made(IMAGES.double(), LABELS, micro_batch=micro_batch).loss.backward()
        found.append([parameter.grad for parameter in made.student.parameters()])
    torch.testing.assert_close(found[1], found[0])
