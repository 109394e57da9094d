import math

import pytest
import torch
from _harness.losses import Golden, LossCase, LossTester, seeded

from congruence.losses import DistLoss, dist_loss
from congruence.losses.dist import CHECKS


def logits(generator, rows):
    student = 3 * torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    return student, 3 * torch.randn(rows, 4, generator=generator, dtype=torch.float64)


def pearson(first, second):
    first, second = ([v - sum(x) / len(x) for v in x] for x in (first, second))
    lengths = [math.sqrt(sum(v * v for v in x)) for x in (first, second)]
    return sum(a * b for a, b in zip(first, second, strict=True)) / (lengths[0] * lengths[1] + 1e-8)


def reference(student, teacher, *, beta=1.0, gamma=1.0, temperature=1.0):
    sides = []
    for side in (student, teacher):
        powers = [[math.exp(v / temperature) for v in row] for row in side.tolist()]
        sides.append([[v / sum(row) for v in row] for row in powers])
    within_samples = [pearson(s, t) for s, t in zip(*sides, strict=True)]
    columns = [list(zip(*side, strict=True)) for side in sides]
    within_classes = [pearson(s, t) for s, t in zip(*columns, strict=True)]
    value = beta * (1 - sum(within_samples) / len(within_samples))
    value += gamma * (1 - sum(within_classes) / len(within_classes))
    return torch.tensor(temperature**2 * value, dtype=torch.float64)


class TestDist(LossTester):
    case = LossCase(
        function=dist_loss,
        module=DistLoss,
        checks=CHECKS,
        over_classes=True,
        inputs=logits,
        reference=reference,
        settings=({}, {"temperature": 4.0}, {"beta": 2.0, "gamma": 0.5}, {"beta": 0, "gamma": 1}),
        goldens=(Golden("dist_A"),),
        zero_at_equal=(),  # the ε beside the norms leaves a little: tested below
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 5)), "got `student_logits` [4, 3], `teacher_logits` [4, 5]."),
            ((torch.zeros(4), torch.zeros(4)), "`student_logits` must be a non-empty 2-D tensor, got shape [4]."),
            ((torch.zeros(4, 3), torch.zeros(4, 3).long()), "`teacher_logits` must be a floating-point tensor"),
        ),
    )

    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    def test_equal_sides_leave_what_epsilon_does(self, temperature):
        student, _ = logits(seeded(), 6)
        student.requires_grad_()
        value = dist_loss(student, student.detach().clone(), temperature=temperature)
        (gradient,) = torch.autograd.grad(value, student)
        assert 0 < value.item() < 1e-5
        assert gradient.abs().max().item() < 1e-5

    def test_what_keeps_the_order_of_each_row_linearly_costs_nothing(self):
        probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]], dtype=torch.float64)
        flatter = 0.5 * probabilities + 0.5 / 3  # the same correlation, other probabilities
        value = dist_loss(flatter.log(), probabilities.log())
        assert abs(value.item()) < 1e-6
        assert not torch.allclose(flatter, probabilities)

    def test_a_gradient_in_half_precision_is_finite_and_that_in_double_precision_rounded(self):
        """Of ±6e4, too, where many classes have one share in all samples."""
        for seed in range(8):
            student, teacher = logits(seeded(seed), 4)
            half = (6e4 * student.sign()).half().requires_grad_()
            exact = half.detach().double().requires_grad_()
            (rounded,) = torch.autograd.grad(dist_loss(half, teacher.half()), half)
            (expected,) = torch.autograd.grad(dist_loss(exact, teacher.half().double()), exact)
            assert rounded.isfinite().all()
            assert torch.equal(rounded, expected.float().half())

    @pytest.mark.parametrize("rows", [2, 7, 64, 1000])
    def test_what_is_constant_correlates_with_nothing(self, rows):
        """One distribution in all samples: the term within classes is γ, its gradient 0, whatever the sum rounds to."""
        for seed in range(5):
            student = torch.randn(1, 5, generator=seeded(seed), dtype=torch.float64).expand(rows, 5).clone()
            student.requires_grad_()
            teacher = torch.randn(rows, 5, generator=seeded(seed + 9), dtype=torch.float64)
            value = dist_loss(student, teacher, beta=0.0, gamma=2.0)
            (gradient,) = torch.autograd.grad(value, student)
            assert value.item() == 2.0
            assert gradient.abs().max().item() == 0.0
        uniform = torch.zeros(rows, 5, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(dist_loss(uniform, teacher, gamma=0.0), uniform)
        assert gradient.abs().max().item() == 0.0

    @pytest.mark.parametrize("side", [0, 1])
    def test_a_constant_side_hides_no_nan_of_the_other(self, side):
        arguments = [torch.zeros(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)]
        arguments[1][2, 1] = float("nan")
        assert dist_loss(*(arguments if side else arguments[::-1])).isnan()

    def test_one_sample_has_no_term_within_classes(self):
        student, teacher = logits(seeded(), 1)
        expected = dist_loss(student, teacher, gamma=0.0)
        assert dist_loss(student, teacher, gamma=5.0).item() == expected.item() != 0
