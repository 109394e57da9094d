import pytest
import torch
from _harness import golden
from _harness.losses import LossCase, LossTester, gradients, leaves, seeded

from congruence.losses import GaussianWassersteinLoss, gaussian_wasserstein_loss, wasserstein_loss
from congruence.losses.gaussian_wasserstein import CHECKS


def embeddings(generator, rows):
    student = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, 3, generator=generator, dtype=torch.float64)


def root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ values.clamp(min=0).sqrt().diag() @ vectors.T


def reference(student, teacher, *, covariance="full"):
    means = (student.mean(0) - teacher.mean(0)).square().sum()
    if covariance == "diagonal":
        return means + (student.std(0, correction=0) - teacher.std(0, correction=0)).square().sum()
    ours, theirs = (x.T.cov(correction=0).reshape(x.shape[1], -1) for x in (student, teacher))
    return means + ours.trace() + theirs.trace() - 2 * root(root(ours) @ theirs @ root(ours)).trace()


class TestGaussianWasserstein(LossTester):
    case = LossCase(
        function=gaussian_wasserstein_loss,
        module=GaussianWassersteinLoss,
        checks=CHECKS,
        inputs=embeddings,
        reference=reference,
        settings=({}, {"covariance": "diagonal"}),
        zero_at_equal=({}, {"covariance": "diagonal"}),
        no_golden="the case has values of seven losses under names of their own: test_equals_the_golden",
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 2)), "got `student` [4, 3], `teacher` [4, 2]."),
            ((torch.zeros(4), torch.zeros(4, 3)), "`student` must be a non-empty 2-D tensor, got shape [4]."),
        ),
    )

    def test_equals_the_golden(self):
        stored = golden.arrays("ot_24x8")
        student, teacher = stored["in_x"].double().requires_grad_(), stored["in_y"].double()
        value = gaussian_wasserstein_loss(student, teacher)
        torch.testing.assert_close(value, stored["bures_W2sq_biased_1_over_n"], rtol=1e-12, atol=0)
        expected = stored["grad_x_bures_W2sq_biased_1_over_n"]
        torch.testing.assert_close(gradients(value, (student,))[0], expected, rtol=1e-9, atol=1e-12)
        diagonal = gaussian_wasserstein_loss(student, teacher, covariance="diagonal")
        torch.testing.assert_close(diagonal, stored["gauss_diag_W2sq_biased"], rtol=1e-12, atol=0)
        narrow = gaussian_wasserstein_loss(stored["in_x"], stored["in_y"])
        torch.testing.assert_close(narrow.double(), stored["bures_W2sq_biased_1_over_n"], rtol=1e-6, atol=0)

    @pytest.mark.parametrize(("rows", "others", "width"), [(12, 7, 3), (4, 6, 9), (3, 12, 5), (1, 5, 3), (5, 1, 3)])
    @pytest.mark.parametrize("covariance", ["full", "diagonal"])
    def test_unequal_batches_and_fewer_samples_than_features(self, rows, others, width, covariance):
        student = torch.randn(rows, width, generator=seeded(), dtype=torch.float64)
        teacher = torch.randn(others, width, generator=seeded(1), dtype=torch.float64)
        expected = reference(student, teacher, covariance=covariance)
        value = gaussian_wasserstein_loss(student, teacher, covariance=covariance)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)  # the root of a singular matrix is not exact
        arguments = leaves((student, teacher))
        values = gradients(gaussian_wasserstein_loss(*arguments, covariance=covariance), arguments)
        assert all(torch.isfinite(g).all() for g in values)

    @pytest.mark.parametrize(("rows", "others", "width"), [(9, 7, 3), (4, 4, 9), (12, 5, 3)])
    def test_finite_differences(self, rows, others, width):
        student = torch.randn(rows, width, generator=seeded(), dtype=torch.float64, requires_grad=True)
        teacher = torch.randn(others, width, generator=seeded(1), dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(gaussian_wasserstein_loss, (student, teacher))

    @pytest.mark.parametrize("shape", [(6, 3), (3, 6), (64, 32), (32, 64), (1, 4)])
    def test_identical_batches(self, shape):
        for dtype in (torch.float32, torch.float64):
            student = 5 + torch.randn(shape, generator=seeded(), dtype=dtype).requires_grad_()
            value = gaussian_wasserstein_loss(student, student.detach().flip(0))  # the same Gaussian
            assert value.item() < 1e-10
            assert gradients(value, (student,))[0].abs().max() < 1e-5

    def test_rank_deficient_batches(self):
        direction = torch.randn(1, 5, generator=seeded(), dtype=torch.float64)
        scales = torch.randn(8, 1, generator=seeded(1), dtype=torch.float64)
        (student,) = leaves((scales * direction,))
        value = gaussian_wasserstein_loss(student, 3 * scales * direction)
        expected = 4 * (scales.mean() ** 2 + scales.var(correction=0)) * direction.square().sum()
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
        torch.testing.assert_close(gradients(value, (student,))[0], -4 * scales * direction / 8, rtol=1e-8, atol=1e-10)

    def test_is_at_most_the_distance_of_the_samples(self):
        student, teacher = embeddings(seeded(), 20)  # Gelbrich's bound
        diagonal, full, exact = (
            gaussian_wasserstein_loss(student, teacher, covariance="diagonal"),
            gaussian_wasserstein_loss(student, teacher),
            wasserstein_loss(student, teacher),
        )
        assert full < exact
        assert diagonal < full

    def test_a_rotated_student_keeps_the_full_distance(self):
        student, teacher = embeddings(seeded(), 8)
        rotation = torch.linalg.qr(torch.randn(3, 3, generator=seeded(1), dtype=torch.float64)).Q
        expected = gaussian_wasserstein_loss(student, teacher)
        torch.testing.assert_close(gaussian_wasserstein_loss(student @ rotation, teacher @ rotation), expected)

    def test_a_feature_that_is_not_finite_shows_in_the_loss(self):
        student, teacher = embeddings(seeded(), 4)
        student[1, 1] = torch.nan
        assert gaussian_wasserstein_loss(student, teacher).isnan()
        assert gaussian_wasserstein_loss(student, teacher, covariance="diagonal").isnan()
