import inspect
import math
import re

import pytest
import torch
from _harness import golden
from _harness.losses import Golden, LossCase, LossTester, gradients, leaves, seeded

from congruence.losses import AlphaBetaLoss, alpha_beta_loss, distillation_loss
from congruence.losses.abkd import CHECKS

MASK = torch.tensor([[True, True, False], [False, True, True], [True, False, False], [False, False, False]])


def logits(generator, rows):
    return tuple(2 * torch.randn(rows, 4, generator=generator, dtype=torch.float64) for _ in range(2))


def tokens(seed=0):
    generator = seeded(seed)
    return tuple(2 * torch.randn(4, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))


def shares(row, temperature):
    powers = [math.exp(v / temperature) for v in row]
    return [v / sum(powers) for v in powers]


def term(p, q, a, b):
    if a == b == 0:
        return math.log(p / q) ** 2 / 2
    if b == 0:
        return (p**a * math.log(p**a / q**a) - p**a + q**a) / a**2
    if a == 0:
        return term(q, p, b, 0)
    if a + b == 0:
        return ((p / q) ** a - 1 - a * math.log(p / q)) / a**2
    return -(p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)) / (a * b)


def reference(student, teacher, *, alpha=0.8, beta=0.3, temperature=1.0):
    values = []
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        pairs = zip(shares(theirs, temperature), shares(ours, temperature), strict=True)
        values.append(math.fsum(term(p, q, alpha, beta) for p, q in pairs))
    return torch.tensor(values, dtype=torch.float64)


EXPONENTS = ((0.8, 0.3), (0.2, 0.7), (0.7, 0), (0, 0.5), (0.4, -0.4), (0, 0), (1.5, -0.5), (-0.3, 0.9), (1, 1))


class TestAlphaBeta(LossTester):
    case = LossCase(
        function=alpha_beta_loss,
        module=AlphaBetaLoss,
        checks=CHECKS,
        over_classes=True,
        inputs=logits,
        reference=reference,
        settings=({}, *({"alpha": a, "beta": b} for a, b in EXPONENTS[1:]), {"temperature": 4}),
        goldens=(Golden("abkd_A", {"temperature": 4.0}),),
        zero_at_equal=({}, *({"alpha": a, "beta": b, "temperature": 0.1} for a, b in EXPONENTS)),
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 5)), "got `student_logits` [4, 3], `teacher_logits` [4, 5]."),
            ((torch.zeros(4), torch.zeros(4)), "must be a non-empty 2-D or 3-D tensor, got shape [4]."),
            ((torch.zeros(4, 3), torch.zeros(4, 3).long()), "`teacher_logits` must be a floating-point tensor"),
        ),
    )

    def test_signature(self):
        parameters = inspect.signature(alpha_beta_loss).parameters
        assert (parameters["mask"].kind, parameters["mask"].default) == (parameters["mask"].KEYWORD_ONLY, None)
        plain = {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY and n != "mask"}
        assert set(plain) == set(CHECKS)
        assert {n: p.default for n, p in inspect.signature(AlphaBetaLoss).parameters.items()} == plain

    @pytest.mark.parametrize(
        ("name", "settings"),
        [("abkd_tokens_A", {"alpha": 0.2, "beta": 0.7}), ("abkd_tokens_beta0_A", {"alpha": 0.7, "beta": 0.0})],
    )
    def test_tokens_equal_the_goldens_of_the_limit(self, name, settings):
        stored = golden.arrays(name)
        mask = stored["in_y"] != -100
        assert not mask.all()
        student, teacher = leaves((stored["in_s"].double(), stored["in_t"].double()))
        value = alpha_beta_loss(student, teacher, mask=mask, **settings)
        torch.testing.assert_close(value, stored["alt__limit__loss"], rtol=1e-10, atol=0)
        (ours,) = gradients(value, (student,))
        torch.testing.assert_close(ours, stored["alt__limit__grad_s"], rtol=1e-9, atol=1e-12)
        narrow = alpha_beta_loss(student.float(), teacher.float(), mask=mask, **settings)
        torch.testing.assert_close(narrow, value.float(), rtol=2e-5, atol=0)
        if settings["beta"]:
            torch.testing.assert_close(value, stored["loss"], rtol=1e-10, atol=0)
            torch.testing.assert_close(narrow, stored["loss_f32"], rtol=2e-5, atol=0)
        else:  # the code divides by α once
            torch.testing.assert_close(0.7 * value, stored["loss"], rtol=1e-10, atol=0)

    def test_forward_and_reverse_divergence(self):
        student, teacher = logits(seeded(), 5)
        forward = alpha_beta_loss(student, teacher, alpha=1.0, beta=0.0)
        torch.testing.assert_close(forward, distillation_loss(student, teacher, temperature=1.0))
        reverse = alpha_beta_loss(student, teacher, alpha=0.0, beta=1.0)
        torch.testing.assert_close(reverse, distillation_loss(teacher, student, temperature=1.0))

    @pytest.mark.parametrize("limit", [(0.7, 0), (0, 0.7), (0.5, -0.5), (0, 0)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_the_limits_are_continuous(self, limit, dtype):
        sides = [side.to(dtype) for side in logits(seeded(), 5)]
        expected = alpha_beta_loss(*sides, alpha=limit[0], beta=limit[1])
        for step in (1e-3, 1e-5, 3e-7, 1e-17):
            near = alpha_beta_loss(*sides, alpha=limit[0] + step, beta=limit[1] + step / 2)
            torch.testing.assert_close(near, expected, rtol=max(50 * step, 1e-5), atol=0)

    def test_near_the_teacher_it_keeps_its_digits(self):
        _, teacher = logits(seeded(), 5)
        student = teacher + 1e-3 * torch.randn(teacher.shape, generator=seeded(1), dtype=torch.float64)
        sides = student.float(), teacher.float()
        for alpha, beta in EXPONENTS:
            exact = alpha_beta_loss(*(side.double() for side in sides), alpha=alpha, beta=beta)
            found = alpha_beta_loss(*sides, alpha=alpha, beta=beta)
            assert found.item() == pytest.approx(exact.item(), rel=5e-3)

    @pytest.mark.parametrize(("alpha", "beta"), EXPONENTS)
    def test_rows_left_out_change_nothing_whatever_they_hold(self, alpha, beta):
        settings = {"alpha": alpha, "beta": beta}
        sides = tokens()
        expected = alpha_beta_loss(*(side[MASK] for side in sides), **settings)
        for bad in (math.nan, math.inf, 0.0):
            held = leaves(tuple(side.masked_fill(~MASK[:, :, None], bad) for side in sides))
            value = AlphaBetaLoss(**settings)(*held, mask=MASK)
            torch.testing.assert_close(value, expected)
            assert all((g[~MASK] == 0).all() and torch.isfinite(g).all() for g in gradients(value, held))
        rows = alpha_beta_loss(*sides, mask=MASK, reduction="none", **settings)
        assert rows.shape == MASK.shape
        assert not rows[~MASK].any()
        flat = alpha_beta_loss(*(side.flatten(0, 1) for side in sides), mask=MASK.flatten(), **settings)
        torch.testing.assert_close(flat, expected)
        held = leaves(sides)
        nothing = alpha_beta_loss(*held, mask=torch.zeros_like(MASK), **settings)
        assert nothing.item() == 0
        assert not any(g.any() for g in gradients(nothing, held))

    @pytest.mark.parametrize(("alpha", "beta"), EXPONENTS)
    def test_classes_masked_on_both_sides_are_left_out(self, alpha, beta):
        sides = leaves(tuple(torch.cat([side, torch.full((5, 1), -torch.inf)], 1) for side in logits(seeded(), 5)))
        value = alpha_beta_loss(*sides, alpha=alpha, beta=beta)
        expected = alpha_beta_loss(*(side[:, :4] for side in sides), alpha=alpha, beta=beta)
        torch.testing.assert_close(value, expected)
        assert all(torch.isfinite(g).all() for g in gradients(value, sides))

    def test_a_class_that_only_the_teacher_leaves_out(self):
        student, teacher = leaves(logits(seeded(), 5))
        masked = torch.cat([teacher[:, :3], torch.full((5, 1), -torch.inf)], 1)
        for alpha, beta in ((0.8, 0.3), (1.0, 0.0)):
            value = alpha_beta_loss(student, masked, alpha=alpha, beta=beta)
            far = torch.cat([teacher[:, :3], torch.full((5, 1), -1e5)], 1)
            torch.testing.assert_close(value, alpha_beta_loss(student, far, alpha=alpha, beta=beta))
            assert all(torch.isfinite(g).all() for g in gradients(value, (student, teacher)))

    @pytest.mark.parametrize("exponents", [(0.5, -0.5), (-0.3, -0.4), (-1, 2), (1, -2), (-0.5, 0), (0, -2)])
    def test_negative_exponents_of_far_logits_are_finite_and_no_less_than_zero(self, exponents):
        alpha, beta = exponents
        for dtype in (torch.float32, torch.float64):
            sides = leaves(tuple((1e4 * side).to(dtype) for side in logits(seeded(), 7)))
            rows = alpha_beta_loss(*sides, alpha=alpha, beta=beta, reduction="none")
            assert torch.isfinite(rows).all()
            assert (rows >= 0).all()
            assert all(torch.isfinite(g).all() for g in gradients(rows, sides))

    @pytest.mark.parametrize("bad", [MASK.float(), MASK[:, :2], MASK.tolist()])
    def test_masks_that_do_not_fit_are_refused(self, bad):
        sentence = "`alpha_beta_loss`: `mask` must be None or a boolean tensor of shape [4, 3], got "
        with pytest.raises(ValueError, match=re.escape(sentence)):
            alpha_beta_loss(*tokens(), mask=bad)
