import math
import statistics

import pytest
import torch
import torch.nn.functional as F
from _harness import golden
from _harness.learned import assert_golden
from _harness.losses import LossCase, LossTester, leaves, seeded

from congruence.losses import OrthogonalFeatureLoss, orthogonal_feature_loss
from congruence.losses.vkd import CHECKS


def pairs(generator, rows):
    return tuple(2 * torch.randn(rows, 4, generator=generator, dtype=torch.float64) for _ in range(2))


def reference(projected, teacher, *, eps=1e-5):
    values = []
    for s, t in zip(projected.tolist(), teacher.tolist(), strict=True):
        centre, spread = statistics.fmean(t), math.sqrt(statistics.pvariance(t) + eps)
        apart = [abs(a - (b - centre) / spread) for a, b in zip(s, t, strict=True)]
        values.append(statistics.fmean(x * x / 2 if x < 1 else x - 0.5 for x in apart))
    return torch.tensor(values, dtype=torch.float64)


def equal(arguments):
    teacher = arguments[1]
    return F.layer_norm(teacher, (4,)), teacher


class TestOrthogonalFeature(LossTester):
    case = LossCase(
        function=orthogonal_feature_loss,
        module=OrthogonalFeatureLoss,
        checks=CHECKS,
        inputs=pairs,
        reference=reference,
        settings=({}, {"eps": 1}),
        equal=equal,
        no_golden="the golden case has a learned map before it: tested below",
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 5)), "got `projected` [4, 3], `teacher` [4, 5]."),
            ((torch.zeros(4), torch.zeros(4)), "`projected` must be a non-empty 2-D tensor, got shape [4]."),
            ((torch.zeros(4, 3), torch.zeros(4, 3).long()), "`teacher` must be a floating-point tensor"),
        ),
    )

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_behind_its_map_it_equals_the_golden(self, dtype):
        stored = golden.arrays("vkd_A")
        student, teacher = leaves((stored["in_s"].to(dtype), stored["in_t"].to(dtype)))
        value = orthogonal_feature_loss(F.linear(student, stored["param_projector.weight"].to(dtype)), teacher)
        assert_golden(value, student, stored)

    def test_scale_and_shift_of_the_teacher_do_not_matter(self):
        student, teacher = pairs(seeded(), 5)
        moved = orthogonal_feature_loss(student, 9 * teacher - 4, eps=1e-12)
        torch.testing.assert_close(moved, orthogonal_feature_loss(student, teacher, eps=1e-12))
