import itertools
import math
from dataclasses import replace

import pytest
import torch
from _harness import golden
from _harness.losses import LossCase, LossTester, gradients, leaves, seeded

from congruence.geometry import transport_plan
from congruence.losses import WassersteinLoss, mimic_loss, wasserstein_loss
from congruence.losses.wasserstein import CHECKS


def embeddings(generator, rows):
    student = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, 3, generator=generator, dtype=torch.float64)


def squares(student, teacher):
    return [[sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) for q in teacher] for p in student]


def reference(student, teacher, *, solver="exact", regularization=0.05):
    cost = squares(student.tolist(), teacher.tolist())
    count = len(cost)
    if solver == "exact":  # a plan of equal weights is a mixture of assignments
        totals = [sum(cost[i][j] for i, j in enumerate(order)) for order in itertools.permutations(range(count))]
        return torch.tensor(min(totals) / count, dtype=torch.float64)
    kernel = [[math.exp(-value / regularization) for value in row] for row in cost]
    left, right = [1.0] * count, [1.0] * count
    for _ in range(2000):
        left = [1 / count / sum(k * r for k, r in zip(row, right, strict=True)) for row in kernel]
        right = [1 / count / sum(kernel[i][j] * left[i] for i in range(count)) for j in range(count)]
    entries = itertools.product(range(count), repeat=2)
    return torch.tensor(sum(left[i] * kernel[i][j] * right[j] * cost[i][j] for i, j in entries), dtype=torch.float64)


class TestWasserstein(LossTester):
    case = LossCase(
        function=wasserstein_loss,
        module=WassersteinLoss,
        checks=CHECKS,
        inputs=embeddings,
        reference=reference,
        settings=({}, {"solver": "sinkhorn", "regularization": 2.0}),
        no_golden="the case has values of seven losses under names of their own: test_equals_the_golden",
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 2)), "got `student` [4, 3], `teacher` [4, 2]."),
            ((torch.zeros(4), torch.zeros(4, 3)), "`student` must be a non-empty 2-D tensor, got shape [4]."),
            ((torch.zeros(4, 3), torch.zeros(4, 3).long()), "`teacher` must be a floating-point tensor"),
        ),
    )

    def test_gradcheck(self):
        """The plan of "sinkhorn" moves with the features and is constant here: no derivative of the value."""
        exact = type("Exact", (LossTester,), {"case": replace(self.case, settings=({},))})()
        exact.test_gradcheck()
        student, teacher = embeddings(seeded(), 5)
        settings = {"solver": "sinkhorn", "regularization": 2.0}
        plan = transport_plan(torch.cdist(student, teacher).square(), **settings)
        (student,) = leaves((student,))
        (gradient,) = gradients(wasserstein_loss(student, teacher, **settings), (student,))
        expected = 2 * (plan[:, :, None] * (student.detach()[:, None] - teacher[None])).sum(1)
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=0)

    def test_equals_the_golden(self):
        stored = golden.arrays("ot_24x8")
        student = stored["in_x"].double().requires_grad_()
        value = wasserstein_loss(student, stored["in_y"].double())
        torch.testing.assert_close(value, stored["W2sq_empirical"], rtol=1e-12, atol=0)
        (gradient,) = gradients(value, (student,))
        torch.testing.assert_close(gradient, stored["grad_x_W2sq_empirical"], rtol=1e-10, atol=1e-14)
        narrow = wasserstein_loss(stored["in_x"], stored["in_y"])
        torch.testing.assert_close(narrow.double(), stored["W2sq_empirical"], rtol=1e-6, atol=0)
        sinkhorn = wasserstein_loss(
            stored["in_x"].double(), stored["in_y"].double(), solver="sinkhorn", regularization=1.0
        )
        torch.testing.assert_close(sinkhorn, stored["sinkhorn_cost_reg1"], rtol=1e-9, atol=0)

    def test_unequal_batches(self):
        student, teacher = leaves((embeddings(seeded(), 4)[0], embeddings(seeded(1), 6)[0]))
        # 12 = 3·4 = 2·6 equal weights on each side: an assignment again
        repeated = wasserstein_loss(student.repeat_interleave(3, 0), teacher.repeat_interleave(2, 0))
        value = wasserstein_loss(student, teacher)
        torch.testing.assert_close(value, repeated, rtol=1e-12, atol=0)
        both = zip(gradients(value, (student, teacher)), gradients(repeated, (student, teacher)), strict=True)
        for ours, wanted in both:
            torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-13)
        assert torch.autograd.gradcheck(wasserstein_loss, (student, teacher))
        single = wasserstein_loss(student[:1], teacher)
        torch.testing.assert_close(single, (student[:1] - teacher).square().sum(1).mean())

    @pytest.mark.parametrize("scale", [1e-20, 1e-4, 1e4])
    def test_unequal_batches_of_any_scale(self, scale):
        student, teacher = embeddings(seeded(), 4)[0], embeddings(seeded(1), 6)[0]
        expected = scale**2 * wasserstein_loss(student, teacher)
        torch.testing.assert_close(wasserstein_loss(scale * student, scale * teacher), expected, rtol=1e-10, atol=0)

    def test_another_order_of_the_student_alone_changes_nothing(self):
        student, teacher = embeddings(seeded(), 8)
        expected = wasserstein_loss(student, teacher)
        torch.testing.assert_close(wasserstein_loss(student.flip(0), teacher), expected, rtol=1e-12, atol=0)
        assert wasserstein_loss(teacher.flip(0), teacher).item() == 0

    def test_sinkhorn_tends_to_exact(self):
        student, teacher = embeddings(seeded(), 8)
        exact = wasserstein_loss(student, teacher).item()
        strengths = (10.0, 1.0, 0.1, 0.01)
        values = [wasserstein_loss(student, teacher, solver="sinkhorn", regularization=r).item() for r in strengths]
        assert values == sorted(values, reverse=True)
        assert exact <= values[-1] <= exact + 0.01 * math.log(8)  # entropy buys no more
        uneven = wasserstein_loss(student[:5], teacher, solver="sinkhorn", regularization=0.01)
        torch.testing.assert_close(uneven, wasserstein_loss(student[:5], teacher), rtol=1e-3, atol=0)

    @pytest.mark.parametrize("seed", range(5))
    def test_theorem_1(self, seed):
        """Paired rows are one plan of many: W2 ≤ ‖g_S − g_T‖ in L2(P)."""
        teacher, noise = embeddings(seeded(seed), 12)
        for student in (noise, teacher + 0.5 * noise, teacher + 0.01 * noise):
            assert wasserstein_loss(student, teacher).sqrt() <= mimic_loss(student, teacher).sqrt() + 1e-12
        close = teacher + 0.01 * noise  # then each sample is nearest to its own
        torch.testing.assert_close(wasserstein_loss(close, teacher), mimic_loss(close, teacher), rtol=1e-12, atol=0)

    @pytest.mark.parametrize("solver", ["exact", "sinkhorn"])
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_feature_that_is_not_finite_shows_in_the_loss(self, solver, bad):
        student, teacher = embeddings(seeded(), 4)
        student[1, 1] = bad
        assert wasserstein_loss(student, teacher, solver=solver).isnan()
        assert wasserstein_loss(student[:3], teacher, solver=solver).isnan()
