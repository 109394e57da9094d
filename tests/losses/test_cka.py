import math

import pytest
import torch
from _harness import golden
from _harness.losses import Golden, LossCase, LossTester, gradients, leaves, seeded

from congruence.losses import LinearCkaLoss, linear_cka_loss
from congruence.losses.cka import CHECKS
from congruence.metrics import linear_cka


def pairs(generator, rows):
    student = 1 + torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return student, 1 + torch.randn(rows, 5, generator=generator, dtype=torch.float64)


def reference(student, teacher, *, centered=True):
    grams = []
    for side in (student, teacher):
        rows = side.tolist()
        if centered:
            centre = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
            rows = [[v - m for v, m in zip(row, centre, strict=True)] for row in rows]
        grams.append([sum(a * b for a, b in zip(p, q, strict=True)) for p in rows for q in rows])
    own = [math.sqrt(sum(v * v for v in gram)) for gram in grams]
    both = sum(a * b for a, b in zip(*grams, strict=True))
    return torch.tensor(1 - both / (own[0] * own[1]), dtype=torch.float64)


def both_ways(student, teacher, **settings):
    """The released code's loss of logits: −15 times the alignment of rows, and of columns."""
    rows = linear_cka_loss(student, teacher, **settings)
    return 15 * (rows - 1) + 15 * (linear_cka_loss(student.T, teacher.T, **settings) - 1)


class TestLinearCka(LossTester):
    case = LossCase(
        function=linear_cka_loss,
        module=LinearCkaLoss,
        checks=CHECKS,
        inputs=pairs,
        reference=reference,
        settings=({}, {"centered": False}),
        zero_at_equal=({}, {"centered": False}),
        relational=True,
        goldens=(Golden("cka_A"),),
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(5, 3)), "got `student` [4, 3], `teacher` [5, 3]."),
            ((torch.zeros(4), torch.zeros(4)), "`student` must be a non-empty 2-D tensor, got shape [4]."),
            ((torch.zeros(4, 3), torch.zeros(4, 3).long()), "`teacher` must be a floating-point tensor"),
        ),
    )

    @pytest.mark.parametrize("name", ["wkd_code", "gram_form"])
    def test_equals_the_other_forms_of_the_golden(self, name):
        stored = golden.arrays("cka_A")
        student, teacher = leaves((stored["in_s"].double(), stored["in_t"].double()))
        value = linear_cka_loss(student, teacher)
        torch.testing.assert_close(value, stored[f"alt__{name}__loss"], rtol=1e-10, atol=0)
        (ours,) = gradients(value, (student,))
        torch.testing.assert_close(ours, stored[f"alt__{name}__grad_s"], rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize(
        ("centered", "loss", "gradient", "dtype", "rtol"),
        [
            (False, "loss", "grad_s", torch.float64, 1e-9),
            (False, "loss_f32", "gradf32_s", torch.float32, 2e-5),
            (True, "alt__centred__loss", "alt__centred__grad_s", torch.float64, 1e-9),
        ],
    )
    def test_both_ways_it_equals_the_golden_of_logits(self, centered, loss, gradient, dtype, rtol):
        stored = golden.arrays("rcka_A")
        student, teacher = leaves((stored["in_s"].to(dtype), stored["in_t"].to(dtype)))
        value = both_ways(student, teacher, centered=centered)
        torch.testing.assert_close(value, stored[loss].to(dtype), rtol=rtol, atol=0)
        (ours,) = gradients(value, (student,))
        expected = stored[gradient].to(dtype)
        torch.testing.assert_close(ours, expected, rtol=rtol, atol=rtol * expected.abs().max().item())

    def test_it_is_one_less_the_metric(self):
        student, teacher = pairs(seeded(), 7)
        assert linear_cka_loss(student, teacher).item() == pytest.approx(1 - linear_cka(student, teacher))

    def test_rotation_scale_and_shift_do_not_matter(self):
        student, _ = pairs(seeded(), 7)
        rotation = torch.linalg.qr(torch.randn(3, 3, generator=seeded(1)).double()).Q
        assert linear_cka_loss(1e3 * student @ rotation + 5, student).item() < 1e-25

    @pytest.mark.parametrize("level", [0.0, 0.1, -3.3, 1e4])
    def test_a_side_that_tells_no_samples_apart(self, level):
        same = torch.full((7, 3), level, requires_grad=True)
        teacher, other = torch.randn(7, 5, generator=seeded()), torch.full((7, 2), 0.3)
        for target, expected in ((teacher, 1.0), (other, 0.0)):
            value = linear_cka_loss(same, target)
            assert value.item() == pytest.approx(expected)
            assert not gradients(value, (same,))[0].any()
        assert linear_cka_loss(torch.randn(1, 3), torch.randn(1, 4)).item() == 0
