import pytest
import torch
import torch.nn.functional as F
from _harness import golden
from _harness.learned import assert_golden, conv_norm
from _harness.losses import LossCase, LossTester, leaves, seeded, usual_extremes

from congruence.losses import NToOneLoss, hint_loss, n_to_one_loss
from congruence.losses.norm import CHECKS


def maps(generator, rows):
    student = torch.randn(rows, 6, 2, 2, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, 2, 2, 4, generator=generator, dtype=torch.float64)


def reference(student, teacher):
    values = []
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        total = 0.0
        for k, channel in enumerate(ours):
            for i, row in enumerate(channel):
                for j, value in enumerate(row):
                    total += (value - max(theirs[k % 2][i][2 * j : 2 * j + 2])) ** 2
        values.append(total / (2 * 2 * 2))
    return torch.tensor(values, dtype=torch.float64)


def equal(arguments):
    teacher = arguments[1]
    return torch.cat([teacher] * 3, 1), teacher


def extremes(case):
    student, teacher = case.inputs(seeded(1), 6)
    given = usual_extremes(case)
    return {
        **given,
        "one column": (student[:, :1], teacher[:, :1]),
        "one position": (student[..., :1], teacher[..., :1]),
    }


class TestNToOne(LossTester):
    case = LossCase(
        function=n_to_one_loss,
        module=NToOneLoss,
        checks=CHECKS,
        inputs=maps,
        reference=reference,
        equal=equal,
        extremes=extremes,
        no_golden="the golden case has a learned convolution before it: tested below",
        bad_arguments=(
            (
                (torch.zeros(4, 7, 2, 2), torch.zeros(4, 3, 2, 2)),
                "`student_map` must be of channels that are a multiple of the teacher's, got `student_map` [4, 7, 2, 2]"
                ", `teacher_map` [4, 3, 2, 2].",
            ),
            (
                (torch.zeros(4, 3, 3, 2), torch.zeros(4, 3, 2, 2)),
                "of a height and width that are integer multiples or fractions of the teacher's",
            ),
            ((torch.zeros(4, 3), torch.zeros(4, 3)), "`student_map` must be a non-empty 4-D tensor, got shape [4, 3]."),
            ((torch.zeros(4, 3, 2, 2), torch.zeros(5, 3, 2, 2)), "`teacher_map` [5, 3, 2, 2]."),
        ),
    )

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_behind_its_convolution_it_equals_the_golden(self, dtype):
        stored = golden.arrays("norm_A")
        student, teacher = leaves((stored["in_s"].to(dtype), stored["in_t"].to(dtype)))
        expanded = conv_norm(student, stored, "param_0", "param_1")
        assert_golden(n_to_one_loss(expanded, teacher), student, stored)
        if dtype == torch.float64:
            torch.testing.assert_close(expanded, stored["out_expanded"])

    def test_of_one_group_it_is_the_hint(self):
        student, teacher = (torch.randn(3, 4, 2, 2, generator=seeded(k)) for k in (0, 1))
        torch.testing.assert_close(n_to_one_loss(student, teacher), hint_loss(student, teacher))

    def test_either_side_is_max_pooled_where_it_is_larger(self):
        small, large = torch.randn(2, 3, 2, 2, generator=seeded(0)), torch.randn(2, 3, 4, 6, generator=seeded(1))
        expected = F.mse_loss(small, F.max_pool2d(large, (2, 3)))
        torch.testing.assert_close(n_to_one_loss(small, large), expected)
        torch.testing.assert_close(n_to_one_loss(large, small), expected)
        mixed = n_to_one_loss(torch.ones(1, 1, 2, 4), torch.ones(1, 1, 4, 2))
        assert mixed.item() == 0
