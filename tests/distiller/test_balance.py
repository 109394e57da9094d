"""Balanced weights: the definition, what each term is held against, and what moves them when."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from _harness.cases import CASES
from _harness.fits import constant, data, distiller, micro_plain, same_state
from torch import nn

import congruence as cg
from congruence import Term
from congruence.core.files import read_lines
from congruence.distiller.balance import FURTHEST, Balance
from congruence.testing.case import batches, small_distiller, small_model


def balanced(*keys, **given):
    return [Term(key, weight="balanced", **given) for key in keys]


@pytest.fixture
def batch():
    points, labels = data().tensors
    return points[:12], labels[:12]


def length(out, student, term):
    """The norm of a whole term's weighted gradient, slowly."""
    parts = [name for name in out.terms if name.partition(".")[0] == term]
    loss = sum(out.weights[name].double() * out.terms[name].double() for name in parts)
    found = torch.autograd.grad(loss, list(student.parameters()), retain_graph=True, allow_unused=True)
    return math.sqrt(sum(float(g.double().square().sum()) for g in found if g is not None))


# The definition


@pytest.mark.parametrize("key", ["kd", "pkt", "rkd", "cckd", "perception_coherence", "wasserstein", "mimic", "dist"])
@pytest.mark.parametrize("share", [0.1, 3.0])
def test_the_gradient_is_the_share_of_the_anchor_s(key, share, batch):
    made = micro_plain("ce", *balanced(key, share=share))
    out = made(*batch)
    assert length(out, made.student, key) == pytest.approx(share * length(out, made.student, "ce"), rel=1e-4)
    whole = sum(float(out.weights[name]) * float(out.terms[name].detach()) for name in out.terms)
    assert float(out.loss.detach()) == pytest.approx(whole, rel=1e-5)
    assert all(isinstance(weight, torch.Tensor) and weight.shape == () for weight in out.weights.values())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_row_can_be_balanced(case):
    probe = small_distiller(case)
    term = probe.terms[0]
    needs = term.needs
    beside = Term(
        case.entry.key if isinstance(case.row, str) else case.entry.make(**case.hyperparameters),
        weight="balanced", name="it", student_layer=term.student_layer, teacher_layer=term.teacher_layer,
        **(case.hyperparameters if isinstance(case.row, str) else {}),
    )  # fmt: skip
    students = {name: small_model(case, "student", seed) for seed, name in enumerate(probe.students, 2)}
    teacher = small_model(case, "teacher", 1) if needs.teacher else None
    made = cg.Distiller(
        teacher, students, ["ce", beside], example=batches(case)[0].inputs[:2].float(), facts=probe.facts
    )
    made.begin_epoch(0)
    for given in batches(case)[:2]:
        views = {name: view.float() for name, view in given.views.items()}
        out = made(given.inputs.float(), given.labels, given.index, views=views)
        assert torch.isfinite(out.loss)
    own = made.bindings["it"].method.own_parts
    moving = {name: w for name, w in out.weights.items() if name.startswith("it") and name.partition(".")[2] not in own}
    assert all(math.isfinite(float(weight)) for weight in moving.values())
    published = case.entry.weight
    if isinstance(published, dict) and isinstance(case.row, str) and len(moving) > 1:
        ratios = {float(w) / published[name.partition(".")[2]] for name, w in moving.items()}
        assert max(ratios) == pytest.approx(min(ratios))


def test_of_the_discriminator_the_own_part_keeps_its_weight(batch):
    made = micro_plain("ce", *balanced("adv", share=1.0))
    out = made(*batch)
    assert float(out.weights["adv.discriminator"]) == 1
    assert float(out.weights["adv.adversarial"]) != 1
    assert length(out, made.student, "adv") == pytest.approx(length(out, made.student, "ce"), rel=1e-4)


def test_what_a_term_is_held_against(batch):
    first = micro_plain(Term("kd", weight=0.5), "ce", *balanced("pkt"))
    out = first(*batch)
    assert length(out, first.student, "pkt") == pytest.approx(length(out, first.student, "kd"), rel=1e-4)
    # Without a number the first balanced term is, and counts 1, or its parts as published.
    second = micro_plain(*balanced("pkt", "rkd"))
    out = second(batch[0])
    assert float(out.weights["pkt"]) == 1
    assert length(out, second.student, "rkd") == pytest.approx(length(out, second.student, "pkt"), rel=1e-4)
    third = micro_plain(*balanced("rkd", "pkt"))
    assert {n: float(w) for n, w in third(batch[0]).weights.items() if n != "pkt"} == {
        "rkd.distance": 25.0, "rkd.angle": 50.0,
    }  # fmt: skip
    alone = micro_plain(*balanced("pkt"))
    assert float(alone(batch[0]).weights["pkt"]) == 1


def test_students_are_balanced_each_by_its_own_anchor(batch):
    made = distiller("ce", *balanced("kd"), students={"anna": 1, "ben": 2})
    out = made(*batch)
    for name in ("anna", "ben"):
        student = made.students[name]
        assert length(out, student, f"kd:{name}") == pytest.approx(length(out, student, f"ce:{name}"), rel=1e-4)


def test_schedules_multiply_the_share(batch):
    terms = balanced("kd", start_epoch=1, warmup_epochs=1, decay=0.5, share=2.0)
    made = micro_plain(Term("ce", warmup_epochs=3), *terms)
    made.begin_epoch(1)
    out = made(*batch)
    assert length(out, made.student, "kd") == pytest.approx(2 * 0.5 * length(out, made.student, "ce"), rel=1e-4)
    made.begin_epoch(2)
    held = made(*batch)
    assert length(held, made.student, "kd") == pytest.approx(2 * 0.5 * length(held, made.student, "ce"), rel=1e-4)


# When and how it moves


def test_it_is_measured_often_at_first_and_seldom_later(batch, monkeypatch):
    measured, made = [], micro_plain("ce", *balanced("kd"))
    inner = Balance.take
    monkeypatch.setattr(Balance, "take", lambda self, *given: measured.append(self._steps["kd"]) or inner(self, *given))
    for _ in range(202):
        made(*batch)
    assert measured == [*range(8), *range(8, 64, 8), 100, 200]


def measure(made, ratio):
    """Have a ratio of norms measured."""
    term, balance = made.terms[1], made.balance
    balance.take([term], made.clock, {"ce": [torch.tensor([float(ratio)])], "kd": [torch.ones(1)]})
    return float(balance.weight(term, "loss", made.clock, torch.ones(()))) / 0.9


def test_measurements_are_averaged_geometrically():
    made = micro_plain("ce", *balanced("kd"))
    assert measure(made, 2.0) == pytest.approx(2.0)
    assert measure(made, 8.0) == pytest.approx(4.0)
    assert measure(made, 4.0) == pytest.approx(4.0)
    for _ in range(2):
        measure(made, 4.0)
    assert measure(made, 40.0) == pytest.approx(4.0 * 10**0.2, rel=1e-5)


def test_it_stays_within_ten_times_what_it_was_at_the_first_epoch_s_end():
    made = micro_plain("ce", *balanced("kd"))
    measure(made, 2.0)
    made.end_epoch()
    for _ in range(100):
        high = measure(made, 1e6)
    assert high == pytest.approx(20.0, rel=1e-4)
    for _ in range(100):
        low = measure(made, 1e-6)
    assert low == pytest.approx(0.2, rel=1e-4)
    made.balance.eval()
    assert float(made.balance.weight(made.terms[1], "loss", made.clock, torch.ones(()))) == pytest.approx(1.8)
    assert pytest.approx(math.log(10)) == FURTHEST


@pytest.mark.parametrize("worthless", [0.0, math.inf, math.nan])
def test_a_measurement_that_says_nothing_is_passed_over(worthless):
    made = micro_plain("ce", *balanced("kd", share=0.5))
    assert measure(made, worthless) == pytest.approx(0.5)  # of the published weight
    assert measure(made, 3.0) == pytest.approx(1.5)
    assert measure(made, worthless) == pytest.approx(1.5)


def test_what_cannot_be_measured_is_told(batch, caplog):
    made = micro_plain("ce", *balanced("pkt"))
    nothing = torch.full((12,), -1)
    with caplog.at_level(logging.WARNING, "congruence"):
        for _ in range(8):
            out = made(batch[0], nothing)
        made.end_epoch()
        made.end_epoch()
    told = [message for message in caplog.messages if "could not be balanced" in message]
    assert len(told) == 1
    assert "The weight of 'pkt' could not be balanced so far" in told[0]
    assert "that of 'ce' was 0 or not finite" in told[0]
    assert float(out.weights["pkt"]) == 30000


def test_a_term_with_a_warm_up_of_its_own_is_measured_when_it_begins(caplog):
    student, points = micro_plain("ce").student, data().tensors[0]
    terms = ["ce", *balanced("kda", warmup=2)]
    made = cg.Distiller(
        micro_plain("ce").teacher.module, student, terms, example=points[:4], facts=cg.data.facts(data())
    )
    found = []

    def keep(event):
        if event.kind == "step":
            found.append(float(made.balance.measured))

    with caplog.at_level(logging.WARNING, "congruence"):
        loader = cg.data.loader(cg.data.indexed(data()), batch_size=2)
        cg.fit(made, loader, options=constant(epochs=3, callbacks=(keep,)))
    assert found == [0] * 24 + [*range(1, 9), *[9] * 4]
    assert not any("could not be balanced" in message for message in caplog.messages)


# In runs


@pytest.mark.parametrize("terms", [("kd",), ("pkt", "rkd"), ("mimic",)])
def test_measuring_changes_nothing_else_that_is_learnt(terms, monkeypatch):
    """A run whose weights are held at 1 from the start is one with numbers; dropout and batch norms do not notice."""
    torch.manual_seed(0)
    parts = [nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Tanh(), nn.Linear(5, 3)]

    def run(made):
        made.example = None
        loader = cg.data.loader(data(), batch_size=8, seed=3)
        cg.fit(made, loader, options=constant(gradient_norms=False))
        return made.students

    def make(given):
        import copy

        torch.manual_seed(2)
        return cg.Distiller(
            micro_plain("ce").teacher.module, copy.deepcopy(nn.Sequential(*parts)), ["ce", *given],
            example=data().tensors[0][:4],
        )  # fmt: skip

    monkeypatch.setattr(Balance, "take", lambda *_: None)
    same_state(run(make(balanced(*terms))), run(make(terms)))


def test_micro_batches_and_accumulation_measure_the_whole_step():
    loader = lambda size: cg.data.loader(data(), batch_size=size, seed=3)  # noqa: E731

    def weights(size, **options):
        made, found = micro_plain("ce", *balanced("kd")), []
        keep = lambda event: found.append(made.balance.log_factors.clone())  # noqa: E731
        cg.fit(made, loader(size), options=constant(callbacks=(keep,), **options))
        return torch.stack(found), made.student

    expected, student = weights(12)
    for size, options in ((12, {"micro_batch": 4}), (6, {"accumulate": 2}), (4, {"accumulate": 3})):
        found, other = weights(size, **options)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other[0].weight, student[0].weight, rtol=1e-4, atol=1e-6)


def test_accumulation_draws_the_step_s_own_masks(monkeypatch):
    """What is measured over several batches is run twice, and leaves no trace."""
    made = [distiller("ce", "kd"), distiller("ce", *balanced("kd"))]
    monkeypatch.setattr(Balance, "take", lambda *_: None)
    for each in made:
        cg.fit(each, cg.data.loader(data(), batch_size=4, seed=3), options=constant(accumulate=2))
    same_state(made[0].students, made[1].students)


@pytest.mark.parametrize("key", ["kd", "rkd", "crd", "kda"])
def test_a_resumed_run_has_the_same_bits(key, tmp_path):
    terms = lambda: [Term("ce"), *balanced(key)]  # noqa: E731
    facts = {"facts": cg.data.facts(data())}

    def run(out, **options):
        torch.manual_seed(1)
        student = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
        made = cg.Distiller(micro_plain("ce").teacher.module, student, terms(), example=data().tensors[0][:4], **facts)
        fit_options = constant(epochs=3, out=out, checkpoint_seconds=0, log_every=1, **options)
        cg.fit(made, cg.data.loader(cg.data.indexed(data()), batch_size=8), options=fit_options)
        return made

    class DiedError(Exception):
        pass

    def die(event):
        if event.kind == "step" and event.step == 5:
            raise DiedError

    whole = run(tmp_path / "whole")
    with pytest.raises(DiedError):
        run(tmp_path / "cut", callbacks=(die,))
    same_state(whole, run(tmp_path / "cut", resume=True))
    rows = [row for row in read_lines(tmp_path / "cut" / "metrics.jsonl") if "weights" in row]
    assert rows == [row for row in read_lines(tmp_path / "whole" / "metrics.jsonl") if "weights" in row]
    assert len(rows) == 9
    assert all(row["weights"][key] > 0 for row in rows if key in row["weights"])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_finds_nearly_the_same(precision):
    def factor(precision):
        made = micro_plain("ce", *balanced("pkt"))
        options = constant(max_steps=1, epochs=None, precision=precision)
        cg.fit(made, cg.data.loader(data(), batch_size=12), options=options)
        return float(made.balance.log_factors)

    assert factor(precision) == pytest.approx(factor("float32"), abs=0.1)


def test_the_buffers_keep_their_type(batch):
    made = micro_plain("ce", *balanced("kd"))
    before = float(made.double()(batch[0].double(), batch[1]).weights["kd"])
    assert made.balance.log_factors.dtype is torch.float32
    state = made.state_dict()
    again = micro_plain("ce", *balanced("kd")).double()
    again.load_state_dict(state)
    assert again.balance._steps == {"kd": 1}
    assert float(again.eval()(batch[0].double(), batch[1]).weights["kd"]) == pytest.approx(before)


# Refused in one sentence


def test_a_backward_that_would_be_seen_is_refused(batch):
    made = micro_plain("ce", *balanced("kd"))
    made.student[0].weight.register_hook(lambda gradient: gradient)
    with pytest.raises(
        ValueError, match=r"the term 'ce' cannot be balanced, .* since .* the hook of a parameter: give"
    ):
        made(*batch)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"weight": "balance"}, "`weight` must be a finite number, one for each part, 'balanced' or 'published', got"),
        ({"weight": "balanced", "share": 0}, "`share` must be a number > 0, got 0"),
        ({"weight": "balanced", "share": "much"}, "`share` must be a number > 0, got 'much'"),
        ({"weight": 1.0, "share": 0.5}, "`share` must be left out unless weight='balanced', got 0.5"),
        ({"share": 0.5}, "`share` must be left out unless weight='balanced', got 0.5"),
    ],
)
def test_bad_arguments(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Term("kd", **arguments)


def test_published_is_a_word_away():
    assert Term("kd", weight="published").weight == Term("kd").weight == 0.9


# Terms of weight 0


@pytest.mark.parametrize("key", ["cckd", "rkd", "crd", "intra_class", "mimic", "kda"])
def test_a_term_of_weight_0_is_logged_and_moves_nothing(key, tmp_path):
    def run(*terms):
        torch.manual_seed(1)
        student = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Tanh(), nn.Linear(5, 3))
        points = data().tensors[0]
        made = cg.Distiller(
            micro_plain("ce").teacher.module, student, terms, example=points[:4], facts=cg.data.facts(data())
        )
        views = {view for needs in made.needs().values() for view in needs.views} - {"main"}

        class Loader:
            def __init__(self):
                self.inner = cg.data.loader(cg.data.indexed(data()), batch_size=8)

            def __len__(self):
                return len(self.inner)

            def __iter__(self):
                for inputs, labels, index in self.inner:
                    more = {view: inputs * 1.1 for view in views}
                    yield {"inputs": inputs, "labels": labels, "index": index, "views": more}

        result = cg.fit(made, Loader(), options=constant(out=tmp_path / str(len(terms)), log_every=1))
        return made, result

    (plain, _), (watching, _) = (
        run("ce", "kd"),
        run("ce", "kd", Term(key, weight=0.0 if key != "rkd" else {"distance": 0.0, "angle": 0.0})),
    )
    same_state(plain.students, watching.students)
    rows = [row for row in read_lines(tmp_path / "3" / "metrics.jsonl") if "loss" in row]
    assert all(any(name.partition(".")[0] == key for name in row) for row in rows)
    assert [row["loss"] for row in rows] == [
        row["loss"] for row in read_lines(tmp_path / "2" / "metrics.jsonl") if "loss" in row
    ]


def test_terms_of_weight_0_alone_are_refused(batch):
    with pytest.raises(ValueError, match="no term trains a student in epoch 0"):
        micro_plain(Term("kd", weight=0.0))(*batch)
