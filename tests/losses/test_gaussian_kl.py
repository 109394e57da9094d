import pytest
import torch
from _harness.losses import LossCase, LossTester, gradients, leaves, seeded
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from congruence.losses import GaussianKlLoss, gaussian_kl_loss
from congruence.losses.gaussian_kl import CHECKS


def embeddings(generator, rows):
    student = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, 3, generator=generator, dtype=torch.float64)


def moments(x, shrinkage):
    """Mean and shrunk covariance by loops."""
    rows, width = x.shape
    mean = [sum(x[i, a].item() for i in range(rows)) / rows for a in range(width)]
    cov = torch.empty(width, width, dtype=torch.float64)
    for a in range(width):
        for b in range(width):
            cov[a, b] = sum((x[i, a] - mean[a]) * (x[i, b] - mean[b]) for i in range(rows)) / rows
    ridge = shrinkage * cov.trace() / width
    return torch.tensor(mean, dtype=torch.float64), (1 - shrinkage) * cov + ridge * torch.eye(width).double()


def reference(student, teacher, *, covariance="diagonal", direction="student_teacher", shrinkage=1e-3):
    sides = [moments(side, shrinkage) for side in (student, teacher)]
    (p_mean, p), (q_mean, q) = sides if direction == "student_teacher" else sides[::-1]
    if covariance == "diagonal":
        p, q = p.diagonal().diag(), q.diagonal().diag()
    gap = q_mean - p_mean
    value = (q.inverse() @ p).trace() + gap @ q.inverse() @ gap - len(gap) + torch.log(q.det() / p.det())
    return value / 2


class TestGaussianKl(LossTester):
    case = LossCase(
        function=gaussian_kl_loss,
        module=GaussianKlLoss,
        checks=CHECKS,
        inputs=embeddings,
        reference=reference,
        settings=(
            {},
            {"direction": "teacher_student"},
            {"covariance": "full"},
            {"covariance": "full", "direction": "teacher_student", "shrinkage": 0.3},
            {"shrinkage": 0.0},
            {"shrinkage": 1.0, "covariance": "full"},
        ),
        zero_at_equal=({}, {"covariance": "full"}, {"direction": "teacher_student", "shrinkage": 0.0}),
        no_golden="there is none: tests against torch.distributions below",
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 2)), "got `student` [4, 3], `teacher` [4, 2]."),
            ((torch.zeros(4), torch.zeros(4, 3)), "`student` must be a non-empty 2-D tensor, got shape [4]."),
        ),
    )

    @pytest.mark.parametrize("swap", [False, True])
    def test_equals_torch(self, swap):
        student, teacher = embeddings(seeded(), 9)
        teacher = teacher[:7]
        direction = "teacher_student" if swap else "student_teacher"
        first, second = (teacher, student) if swap else (student, teacher)
        means = first.mean(0), second.mean(0)
        deviations = first.std(0, correction=0), second.std(0, correction=0)
        expected = kl_divergence(Normal(means[0], deviations[0]), Normal(means[1], deviations[1])).sum()
        divergence = gaussian_kl_loss(student, teacher, direction=direction, shrinkage=0.0)
        torch.testing.assert_close(divergence, expected, rtol=1e-11, atol=0)
        full = [MultivariateNormal(x.mean(0), x.T.cov(correction=0)) for x in (first, second)]
        divergence = gaussian_kl_loss(student, teacher, covariance="full", direction=direction, shrinkage=0.0)
        # without shrinkage 1e-8 is added to the variances
        torch.testing.assert_close(divergence, kl_divergence(*full), rtol=1e-6, atol=0)

    @pytest.mark.parametrize("covariance", ["diagonal", "full"])
    @pytest.mark.parametrize("rows", [1, 2, 5])
    def test_fewer_samples_than_features(self, covariance, rows):
        student = torch.randn(rows, 24, generator=seeded(), requires_grad=True)
        teacher = torch.randn(4, 24, generator=seeded(1))
        for direction in ("student_teacher", "teacher_student"):
            value = gaussian_kl_loss(student, teacher, covariance=covariance, direction=direction)
            assert torch.isfinite(value)
            assert value > 0
            assert torch.isfinite(gradients(value, (student,))[0]).all()

    def test_covariances_that_are_diagonal(self):
        signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]).double()
        student, teacher = signs * torch.tensor([1.0, 3.0]), signs * torch.tensor([2.0, 0.5]) + 1
        full = gaussian_kl_loss(student, teacher, covariance="full")
        torch.testing.assert_close(full, gaussian_kl_loss(student, teacher), rtol=1e-11, atol=0)

    def test_a_constant_student_gets_a_gradient_towards_the_mean(self):
        (student,) = leaves((torch.zeros(3, 2),))
        value = gaussian_kl_loss(student, torch.randn(5, 2, generator=seeded()) + 4)
        assert (gradients(value, (student,))[0] < 0).all()

    def test_full_without_shrinkage_at_large_scale(self):
        student, teacher = (1e6 * torch.randn(3, 6, generator=seeded(k)) for k in range(2))
        assert torch.isfinite(gaussian_kl_loss(student, teacher, covariance="full", shrinkage=0.0))
