import pytest
import torch
from _harness import golden
from _harness.losses import LossCase, LossTester, gradients, leaves, seeded

from congruence.losses import (
    ClassGaussianWassersteinLoss,
    class_gaussian_wasserstein_loss,
    gaussian_wasserstein_loss,
)
from congruence.losses.class_gaussian_wasserstein import CHECKS

BOTH = ("diagonal", "full")


def embeddings(generator, rows):
    sides = [torch.randn(rows, 3, generator=generator, dtype=torch.float64) for _ in range(2)]
    return *sides, torch.tensor([4, 4, 4, 0, -1, 2, 0])[:rows], torch.tensor([0, 4, 4, 4, 7, -1, 0])[:rows]


def equal(arguments):
    return arguments[0], arguments[0], arguments[2], arguments[2]


def reference(student, teacher, student_labels, teacher_labels, *, covariance="diagonal"):
    shared = [k for k in range(10) if k in student_labels.tolist() and k in teacher_labels.tolist()]
    pairs = [(student[student_labels == k], teacher[teacher_labels == k]) for k in shared]
    return torch.stack([gaussian_wasserstein_loss(*pair, covariance=covariance) for pair in pairs]).mean()


class TestClassGaussianWasserstein(LossTester):
    case = LossCase(
        function=class_gaussian_wasserstein_loss,
        module=ClassGaussianWassersteinLoss,
        checks=CHECKS,
        inputs=embeddings,
        reference=reference,
        settings=({}, {"covariance": "full"}),
        zero_at_equal=({}, {"covariance": "full"}),
        equal=equal,
        no_golden="the case has values of seven losses under names of their own: test_equals_the_golden",
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 2), torch.zeros(4).int(), torch.zeros(4).int()), "`teacher` [4, 2]."),
            (
                (torch.zeros(4, 3), torch.zeros(5, 3), torch.zeros(4).int(), torch.zeros(4).int()),
                "got `teacher` [5, 3], `teacher_labels` [4].",
            ),
            (
                (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4), torch.zeros(4).int()),
                "`student_labels` must be a 1-D integer tensor of class labels, got torch.float32 of shape [4].",
            ),
        ),
    )

    def test_equals_the_golden(self):
        stored = golden.arrays("ot_24x8")
        sides = stored["in_x"].double(), stored["in_y"].double()
        labels = stored["in_labels_x"], stored["in_labels_y"]
        expected = stored["cc_bures_W2sq_per_class_biased_reg1e6"].mean()
        value = class_gaussian_wasserstein_loss(*sides, *labels, covariance="full")
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=0)  # its covariances have 1e-6 added

    @pytest.mark.parametrize("covariance", BOTH)
    def test_one_class_is_the_plain_distance(self, covariance):
        student, teacher = embeddings(seeded(), 6)[:2]
        labels = torch.full((6,), 3)
        expected = gaussian_wasserstein_loss(student, teacher[:4], covariance=covariance)
        value = class_gaussian_wasserstein_loss(student, teacher[:4], labels, labels[:4], covariance=covariance)
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=0)

    @pytest.mark.parametrize("covariance", BOTH)
    def test_unequal_batches_and_rows_without_a_partner(self, covariance):
        student, teacher, ours, theirs = leaves(embeddings(seeded(), 7))
        teacher = teacher[:5].detach().requires_grad_()
        value = class_gaussian_wasserstein_loss(student, teacher, ours, theirs[:5], covariance=covariance)
        expected = reference(student, teacher, ours, theirs[:5], covariance=covariance)
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=0)
        by_side = gradients(value, (student, teacher))
        for side, wanted in zip(by_side, gradients(expected, (student, teacher)), strict=True):
            torch.testing.assert_close(side, wanted, rtol=1e-9, atol=1e-12)
        assert by_side[0].abs().sum(1).gt(0).tolist() == [True, True, True, True, False, False, True]
        assert by_side[1].abs().sum(1).gt(0).tolist() == [True, True, True, True, False]

    @pytest.mark.parametrize("covariance", BOTH)
    @pytest.mark.parametrize("classes", [2, 10])
    def test_classes_of_any_sizes_are_each_for_itself(self, covariance, classes):
        generator = seeded(classes)
        sides = leaves(tuple(torch.randn(rows, 5, generator=generator, dtype=torch.float64) for rows in (40, 31)))
        labels = [torch.randint(-1, classes, (len(side),), generator=generator) for side in sides]
        value = class_gaussian_wasserstein_loss(*sides, *labels, covariance=covariance)
        expected = reference(*sides, *labels, covariance=covariance)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        for gradient, wanted in zip(gradients(value, sides), gradients(expected, sides), strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("covariance", BOTH)
    def test_one_sample_a_class_matches_the_sample(self, covariance):
        student, teacher = leaves(embeddings(seeded(), 4)[:2])
        labels = torch.arange(4)
        value = class_gaussian_wasserstein_loss(student, teacher, labels, labels, covariance=covariance)
        expected = (student - teacher).square().sum(1).mean()
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(gradients(value, (student,)), gradients(expected, (student,)), rtol=1e-12, atol=0)

    @pytest.mark.parametrize("covariance", BOTH)
    def test_no_class_on_both_sides_is_0_with_zero_gradient(self, covariance):
        student, teacher = leaves(embeddings(seeded(), 3)[:2])
        for ours, theirs in (([0, 1, 2], [3, 4, 5]), ([-1, -1, -1], [-1, -1, -1])):
            labels = torch.tensor(ours), torch.tensor(theirs)
            value = class_gaussian_wasserstein_loss(student, teacher, *labels, covariance=covariance)
            assert value.item() == 0
            assert all(not g.any() for g in gradients(value, (student, teacher)))

    @pytest.mark.parametrize("covariance", BOTH)
    def test_what_is_no_number_shows_in_a_class_of_one_side_alone(self, covariance):
        student, teacher = embeddings(seeded(), 3)[:2]
        student[2, 0] = torch.nan
        labels = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1])
        assert class_gaussian_wasserstein_loss(student, teacher, *labels, covariance=covariance).isnan()
