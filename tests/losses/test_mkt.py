import pytest
import torch
from _harness import golden
from _harness.losses import Golden, LossCase, LossTester, gradients, leaves, seeded

from congruence.losses import (
    MetricTransferAbsoluteLoss,
    MetricTransferRelativeLoss,
    metric_transfer_absolute_loss,
    metric_transfer_relative_loss,
)
from congruence.losses.mkt import ABSOLUTE_CHECKS, RELATIVE_CHECKS


def paired(generator, rows):
    return tuple(torch.randn(rows, 3, generator=generator, dtype=torch.float64) for _ in range(2))


def embeddings(generator, rows):
    student = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, 5, generator=generator, dtype=torch.float64)


def distance(first, second):
    return sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) ** 0.5


def absolute(student, teacher):
    values = [distance(s, t) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    return torch.tensor(values, dtype=torch.float64)


def relative(student, teacher):
    ours, theirs = student.tolist(), teacher.tolist()
    pairs = [(i, j) for i in range(len(ours)) for j in range(len(ours))]
    total = sum((distance(ours[i], ours[j]) - distance(theirs[i], theirs[j])) ** 2 for i, j in pairs)
    return torch.tensor(total**0.5, dtype=torch.float64)


class TestAbsolute(LossTester):
    case = LossCase(
        function=metric_transfer_absolute_loss,
        module=MetricTransferAbsoluteLoss,
        checks=ABSOLUTE_CHECKS,
        inputs=paired,
        reference=absolute,
        no_golden="the authors' code adds 1e-6 to each difference: a test of its own",
        bad_arguments=(
            (
                (torch.zeros(4, 3), torch.zeros(4, 5)),
                "must have the same shape, got `student` [4, 3], `teacher` [4, 5].",
            ),
            ((torch.zeros(3), torch.zeros(3)), "got shape [3]."),
        ),
    )

    @pytest.mark.parametrize(
        ("dtype", "loss", "prefix", "rtol"),
        [(torch.float64, "loss", "grad_s", 1e-10), (torch.float32, "loss_f32", "gradf32_s", 2e-5)],
    )
    def test_equals_the_golden_but_for_its_epsilon(self, dtype, loss, prefix, rtol):
        stored = golden.arrays("mkt_absolute_A")
        student, teacher = leaves((stored["in_s"].to(dtype), stored["in_t"].to(dtype)))
        value = metric_transfer_absolute_loss(student + 1e-6, teacher)
        torch.testing.assert_close(value, stored[loss].to(dtype), rtol=rtol, atol=0)
        (gradient,) = gradients(value, (student,))
        torch.testing.assert_close(gradient, stored[prefix].to(dtype), rtol=rtol, atol=rtol)

    def test_equal_rows_have_no_gradient(self):
        student, teacher = paired(seeded(0), 4)
        student = torch.cat([teacher[:2], student[2:]]).requires_grad_()
        (gradient,) = gradients(metric_transfer_absolute_loss(student, teacher), (student,))
        assert not gradient[:2].any()
        torch.testing.assert_close(gradient[2:].norm(dim=1), torch.full((2,), 0.25, dtype=torch.float64))


class TestRelative(LossTester):
    case = LossCase(
        function=metric_transfer_relative_loss,
        module=MetricTransferRelativeLoss,
        checks=RELATIVE_CHECKS,
        inputs=embeddings,
        reference=relative,
        goldens=(Golden("mkt_relative_A"),),
        relational=True,
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(5, 3)), "got `student` [4, 3], `teacher` [5, 3]."),
            ((torch.zeros(4), torch.zeros(4, 3)), "`student` must be a non-empty 2-D tensor, got shape [4]."),
        ),
    )

    def test_moved_and_rotated_student_gives_zero(self):
        student, _ = embeddings(seeded(0), 6)
        rotation = torch.linalg.qr(torch.randn(3, 3, generator=seeded(1)).double()).Q
        assert metric_transfer_relative_loss(student @ rotation + 5, student).item() < 1e-13

    def test_equal_rows_have_no_gradient_by_their_distance(self):
        student, teacher = embeddings(seeded(0), 2)
        student = student[:1].repeat(2, 1).requires_grad_()
        (gradient,) = gradients(metric_transfer_relative_loss(student, teacher), (student,))
        assert not gradient.any()
