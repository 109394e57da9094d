import math
import statistics

import pytest
import torch
import torch.nn.functional as F
from _harness import golden
from _harness.learned import assert_golden
from _harness.losses import LossCase, LossTester, gradients, leaves, seeded

from congruence.losses import LogPowerLoss, log_power_loss
from congruence.losses.srd import CHECKS

CORRELATION = {"form": "correlation", "eps": 1e-12}


def pairs(generator, rows):
    return tuple(torch.randn(rows, 3, generator=generator, dtype=torch.float64) for _ in range(2))


def normalized(column, eps):
    centre, spread = statistics.fmean(column), math.sqrt(statistics.pvariance(column) + eps)
    return [(v - centre) / spread for v in column]


def reference(projected, teacher, *, power=4.0, eps=1e-4, form="difference", floor=1e-5):
    total = floor
    for s, t in zip(projected.T.tolist(), teacher.T.tolist(), strict=True):
        s, t = normalized(s, eps), normalized(t, eps)
        if form == "difference":
            total += sum(abs(a - b) ** power for a, b in zip(s, t, strict=True))
        else:
            total += abs(sum(a * b for a, b in zip(s, t, strict=True)) / len(s) - 1) ** power
    return torch.tensor(math.log(total), dtype=torch.float64)


class TestLogPower(LossTester):
    case = LossCase(
        function=log_power_loss,
        module=LogPowerLoss,
        checks=CHECKS,
        inputs=pairs,
        reference=reference,
        settings=({}, CORRELATION, {"power": 2, "floor": 0}, {"power": 1.5, "form": "correlation", "floor": 1}),
        zero_at_equal=({"floor": 1.0}, {"floor": 1, "power": 2}),
        no_golden="the golden cases have a learned map before it: tested below",
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 5)), "got `projected` [4, 3], `teacher` [4, 5]."),
            ((torch.zeros(4), torch.zeros(4)), "`projected` must be a non-empty 2-D tensor, got shape [4]."),
            ((torch.zeros(4, 3), torch.zeros(4, 3).long()), "`teacher` must be a floating-point tensor"),
        ),
    )

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize(("name", "settings"), [("srd_A", {"floor": 0}), ("srd_corr_A", CORRELATION)])
    def test_behind_its_linear_map_it_equals_the_golden(self, name, settings, dtype):
        stored = golden.arrays(name)
        student, teacher = leaves((stored["in_s"].to(dtype), stored["in_t"].to(dtype)))
        weight, bias = (stored[f"param_embed.{part}"].to(dtype) for part in ("weight", "bias"))
        assert_golden(log_power_loss(F.linear(student, weight, bias), teacher, **settings), student, stored)

    def test_scale_and_shift_of_a_feature_do_not_matter(self):
        student, teacher = pairs(seeded(), 5)
        expected = log_power_loss(student, teacher, eps=1e-12)
        moved = log_power_loss(student * torch.tensor([1.0, 5.0, 0.1]) + 7, teacher, eps=1e-12)
        torch.testing.assert_close(moved, expected)

    def test_at_equality_it_is_the_floor_or_the_smallest_sum(self):
        student, _ = leaves(pairs(seeded(), 5))
        assert log_power_loss(student, student).item() == pytest.approx(math.log(1e-5))
        value = log_power_loss(student, student.detach().clone(), floor=0)
        assert value.item() == pytest.approx(math.log(1e-30))
        assert not gradients(value, (student,))[0].any()

    @pytest.mark.parametrize("level", [0.1, -3.3, 1e4])
    def test_a_feature_that_never_changes_is_zero(self, level):
        student, teacher = (x.float() for x in pairs(seeded(), 7))
        student[:, 1] = level
        student.requires_grad_()
        for settings in ({}, CORRELATION):
            value = log_power_loss(student, teacher, **settings)
            other = torch.cat([student[:, :1], torch.zeros(7, 1), student[:, 2:]], 1)
            torch.testing.assert_close(value, log_power_loss(other, teacher, **settings))
            assert torch.isfinite(gradients(value, (student,))[0]).all()
