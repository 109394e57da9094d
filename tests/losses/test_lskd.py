import math
import statistics

import pytest
import torch
from _harness import golden
from _harness.losses import Golden, LossCase, LossTester, gradients, leaves, seeded

from congruence.losses import (
    StandardizedDistillationLoss,
    decoupled_kd_loss,
    distillation_loss,
    standardize_logits,
    standardized_distillation_loss,
)
from congruence.losses.lskd import CHECKS


def logits(generator, rows):
    return tuple(3 * torch.randn(rows, 4, generator=generator, dtype=torch.float64) for _ in range(2))


def shares(row, temperature, eps):
    centre, spread = statistics.fmean(row), statistics.stdev(row)
    powers = [math.exp((v - centre) / (eps + spread) / temperature) for v in row]
    return [v / sum(powers) for v in powers]


def reference(student, teacher, *, temperature=2.0, eps=1e-7):
    values = []
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = shares(ours, temperature, eps), shares(theirs, temperature, eps)
        values.append(temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return torch.tensor(values, dtype=torch.float64)


class TestStandardizedDistillation(LossTester):
    case = LossCase(
        function=standardized_distillation_loss,
        module=StandardizedDistillationLoss,
        checks=CHECKS,
        over_classes=True,
        inputs=logits,
        reference=reference,
        settings=({}, {"temperature": 3}, {"eps": 0.5}),
        goldens=(Golden("lskd_kd_A"),),
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 5)), "got `student_logits` [4, 3], `teacher_logits` [4, 5]."),
            ((torch.zeros(4), torch.zeros(4)), "`student_logits` must be a non-empty 2-D tensor, got shape [4]."),
            ((torch.zeros(4, 3), torch.zeros(4, 3).long()), "`teacher_logits` must be a floating-point tensor"),
        ),
    )

    def test_without_standardising_it_is_kd(self):
        stored = golden.arrays("lskd_kd_A")
        student, teacher = leaves((stored["in_s"].double(), stored["in_t"].double()))
        value = distillation_loss(student, teacher, temperature=2.0)
        torch.testing.assert_close(value, stored["alt__without_standardising__loss"], rtol=1e-10, atol=0)
        ours = gradients(value, (student,))[0]
        torch.testing.assert_close(ours, stored["alt__without_standardising__grad_s"], rtol=1e-10, atol=1e-12)

    def test_dkd_on_standardised_logits_is_the_golden_one(self):
        stored = golden.arrays("lskd_dkd_A")
        for dtype, suffix, prefix, rtol in (
            (torch.float64, "", "grad_s", 1e-10),
            (torch.float32, "_f32", "gradf32_s", 2e-5),
        ):
            student, teacher = leaves((stored["in_s"].to(dtype), stored["in_t"].to(dtype)))
            sides = standardize_logits(student), standardize_logits(teacher)
            value = decoupled_kd_loss(*sides, stored["in_y"], temperature=2.0)
            torch.testing.assert_close(value, stored[f"loss{suffix}"].to(dtype), rtol=rtol, atol=0)
            expected = stored[prefix].to(dtype)
            ours = gradients(value, (student,))[0]
            torch.testing.assert_close(ours, expected, rtol=rtol, atol=rtol * expected.abs().max().item())

    def test_shift_and_scale_of_a_row_do_not_matter(self):
        student, teacher = logits(seeded(), 5)
        value = standardized_distillation_loss(student, teacher, eps=1e-12)
        moved = standardized_distillation_loss(7 * student - 3, 0.2 * teacher + 100, eps=1e-12)
        torch.testing.assert_close(value, moved)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("level", [0.0, 0.1, -3.3, 1e4])
    def test_a_constant_row_has_no_gradient(self, level, dtype):
        student = torch.full((2, 10), level, dtype=dtype)
        student[1] = torch.randn(10, generator=seeded(), dtype=dtype)
        teacher = torch.randn(2, 10, generator=seeded(1), dtype=dtype)
        student.requires_grad_()
        assert not standardize_logits(student)[0].any()
        (gradient,) = gradients(standardized_distillation_loss(student, teacher), (student,))
        assert not gradient[0].any()
        assert 0 < gradient[1].abs().max() < 1

    def test_standardised_rows(self):
        usual, _ = logits(seeded(), 5)
        rows = standardize_logits(usual, eps=1e-12)
        torch.testing.assert_close(rows.mean(1), torch.zeros(5, dtype=torch.float64))
        torch.testing.assert_close(rows.std(1), torch.ones(5, dtype=torch.float64))
        assert standardize_logits(usual.bfloat16()).dtype == torch.float32
        assert torch.autograd.gradcheck(standardize_logits, usual.requires_grad_())

    @pytest.mark.parametrize(
        ("bad", "settings", "part"),
        [
            (torch.zeros(3), {}, "`logits` must be a non-empty 2-D tensor, got shape [3]."),
            (torch.zeros(3, 1), {}, "`logits` must be logits of two classes or more, got shape [3, 1]"),
            (torch.zeros(3, 2), {"eps": 0}, "`eps` must be a number > 0, got 0."),
        ],
    )
    def test_what_cannot_be_standardised_is_told(self, bad, settings, part):
        with pytest.raises(ValueError) as error:
            standardize_logits(bad, **settings)
        assert str(error.value).startswith(f"`standardize_logits`: {part}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_logits_near_the_end_of_the_range_are_standardised(dtype):
    shape = torch.tensor([[1.0, -0.5, 0.25], [1.0, 1.0, 1.0]])
    logits = (3e38 * shape).to(dtype).requires_grad_()
    rows = standardize_logits(logits)
    torch.testing.assert_close(rows, standardize_logits(shape), rtol=1e-5, atol=1e-6)
    assert rows.sum().isfinite()
    assert all(g.isfinite().all() for g in gradients(rows[:, 0].sum(), (logits,)))
