import math

import pytest
import torch
from _harness import golden
from _harness.losses import Golden, LossCase, LossTester, tight_clusters

from congruence.losses import KernelTransferLoss, kernel_transfer_loss
from congruence.losses.kda import CHECKS

INPUTS = ("in_s", "in_t", "out_landmarks_s", "out_landmarks_t")


def embeddings(generator, rows):
    """Rows and four landmarks; some differences are below 1 and some beyond."""
    shapes = ((rows, 3), (rows, 5), (4, 3), (4, 5))
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


def reference(student, teacher, student_landmarks, teacher_landmarks, *, normalize=False, scale="mean"):
    def kernel(rows, landmarks):
        table = []
        for row in rows.tolist():
            length = math.sqrt(sum(v * v for v in row)) if normalize else 1.0
            table.append([sum(a * b for a, b in zip(row, mark, strict=True)) / length for mark in landmarks.tolist()])
        return table

    ours, theirs = kernel(student, student_landmarks), kernel(teacher, teacher_landmarks)
    total = square = 0.0
    for left, right in zip(ours, theirs, strict=True):
        for s, t in zip(left, right, strict=True):
            gap = abs(s - t)
            total += gap - 0.5 if gap > 1 else 0.5 * gap**2
            square += t * t
    divisor = {"sum": 1.0, "mean": len(ours) * len(ours[0]), "teacher_norm": math.sqrt(square)}[scale]
    return torch.tensor(total / divisor, dtype=torch.float64)


def own_teacher(arguments):
    return (arguments[0], arguments[0], arguments[2], arguments[2])


class TestKda(LossTester):
    case = LossCase(
        function=kernel_transfer_loss,
        module=KernelTransferLoss,
        checks=CHECKS,
        inputs=embeddings,
        reference=reference,
        settings=(
            {},
            {"normalize": True},
            {"scale": "sum"},
            {"scale": "teacher_norm"},
            {"scale": "teacher_norm", "normalize": True},
        ),
        zero_at_equal=({}, {"normalize": True, "scale": "sum"}, {"scale": "teacher_norm"}),
        equal=own_teacher,
        goldens=(
            Golden("kda_raw_A", inputs=INPUTS),
            Golden("kda_l2norm_A", {"normalize": True}, inputs=INPUTS),
        ),
        differentiable=(0, 1),
        bad_arguments=(
            (
                (torch.zeros(4, 3), torch.zeros(5, 3), torch.zeros(2, 3), torch.zeros(2, 3)),
                "`student` and `teacher` must have the same number of rows, got `student` [4, 3], `teacher` [5, 3].",
            ),
            (
                (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(2, 3), torch.zeros(1, 3)),
                "got `student_landmarks` [2, 3], `teacher_landmarks` [1, 3].",
            ),
            (
                (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(2, 5), torch.zeros(2, 3)),
                "must have the same width, got `student` [4, 3], `student_landmarks` [2, 5].",
            ),
            (
                (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(2, 3), torch.zeros(2, 4)),
                "must have the same width, got `teacher` [4, 3], `teacher_landmarks` [2, 4].",
            ),
            ((torch.zeros(4), torch.zeros(4, 3), torch.zeros(2, 3), torch.zeros(2, 3)), "got shape [4]."),
        ),
    )

    @pytest.mark.parametrize("name", ["raw", "l2norm", "batch_landmarks_raw", "batch_landmarks_l2norm"])
    def test_values_of_all_goldens(self, name):
        """Landmarks of the batch itself carry gradient there and are constants here: the value is the same."""
        stored = golden.arrays(f"kda_{name}_A")
        settings = {"normalize": name.endswith("l2norm")}
        arguments = [stored[key].double() for key in INPUTS]
        torch.testing.assert_close(kernel_transfer_loss(*arguments, **settings), stored["loss"], rtol=1e-10, atol=0)
        total = kernel_transfer_loss(*arguments, **settings, scale="sum")
        torch.testing.assert_close(total, stored["out_loss_sum"], rtol=1e-10, atol=0)

    def test_landmarks_are_constants(self):
        arguments = [t.requires_grad_() for t in embeddings(torch.Generator().manual_seed(0), 5)]
        kernel_transfer_loss(*arguments).backward()
        assert [t.grad is not None for t in arguments] == [True, True, False, False]

    def test_one_hot_landmarks_match_logits(self):
        student, teacher = (torch.randn(6, 4, generator=torch.Generator().manual_seed(k)).double() for k in (0, 1))
        value = kernel_transfer_loss(student, teacher, torch.eye(4), torch.eye(4))
        assert value == torch.nn.functional.smooth_l1_loss(student, teacher)

    def test_a_rotation_of_either_space_changes_nothing(self):
        student, teacher, marks, theirs = embeddings(torch.Generator().manual_seed(0), 6)
        rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double()).Q
        moved = kernel_transfer_loss(student @ rotation, teacher, marks @ rotation, theirs)
        torch.testing.assert_close(moved, kernel_transfer_loss(student, teacher, marks, theirs))

    def test_a_teacher_of_zeros_gives_zero_in_its_own_norm(self):
        student, teacher, *marks = embeddings(torch.Generator().manual_seed(0), 6)
        student.requires_grad_()
        value = kernel_transfer_loss(student, torch.zeros_like(teacher), *marks, scale="teacher_norm")
        value.backward()
        assert value.item() == 0
        assert torch.equal(student.grad, torch.zeros_like(student))

    def test_autocast_keeps_tight_clusters(self):
        student, teacher = (rows.float() for rows in tight_clusters(16, 3, 5))
        student.requires_grad_()
        for scale in ("mean", "teacher_norm"):
            arguments = (student, teacher, student[:2], teacher[:2] * 0.6)
            exact = kernel_transfer_loss(*(t.double() for t in arguments), scale=scale)
            with torch.autocast("cpu", torch.bfloat16):
                under = kernel_transfer_loss(*arguments, scale=scale)
            torch.testing.assert_close(under.double(), exact, rtol=1e-6, atol=0)

    def test_a_landmark_that_is_infinite_shows_where_the_teacher_s_kernel_is_0(self):
        nothing, far = torch.zeros(2, 3), torch.full((2, 3), torch.inf)
        assert not kernel_transfer_loss(torch.ones(2, 3), nothing, far, nothing, scale="teacher_norm").isfinite()
