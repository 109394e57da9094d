import pytest
import torch
import torch.nn.functional as F
from _harness import golden
from _harness.learned import assert_golden, conv_norm
from _harness.losses import LossCase, LossTester, leaves, seeded

from congruence.losses import HintLoss, hint_loss
from congruence.losses.fitnet import CHECKS


def maps(generator, rows):
    return tuple(torch.randn(rows, 3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))


def reference(student, teacher):
    pairs = zip(student.flatten(1).tolist(), teacher.flatten(1).tolist(), strict=True)
    values = [sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s) for s, t in pairs]
    return torch.tensor(values, dtype=torch.float64)


class TestHint(LossTester):
    case = LossCase(
        function=hint_loss,
        module=HintLoss,
        checks=CHECKS,
        inputs=maps,
        reference=reference,
        no_golden="fitnet_hint_A is of the regressor and the loss together: tests/methods/test_fitnet.py",
        bad_arguments=(
            (
                (torch.zeros(4, 3), torch.zeros(4, 5)),
                "must have the same shape, got `student` [4, 3], `teacher` [4, 5].",
            ),
            ((torch.zeros(4, 3, 2, 2), torch.zeros(4, 5, 2, 2)), "got `student` [4, 3, 2, 2], `teacher` [4, 5, 2, 2]."),
            ((torch.zeros(3), torch.zeros(3)), "got shape [3]."),
        ),
    )

    def test_equals_torch(self):
        for shape in ((6, 3), (6, 4, 3), (6, 3, 2, 2)):
            student, teacher = (torch.randn(shape, generator=seeded(k), dtype=torch.float64) for k in (0, 1))
            torch.testing.assert_close(hint_loss(student, teacher), F.mse_loss(student, teacher))

    def test_the_larger_map_is_pooled(self):
        small, large = torch.randn(2, 3, 2, 2, generator=seeded(0)), torch.randn(2, 3, 6, 6, generator=seeded(1))
        expected = F.mse_loss(small, F.adaptive_avg_pool2d(large, 2))
        torch.testing.assert_close(hint_loss(small, large), expected)
        torch.testing.assert_close(hint_loss(large, small), expected)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_behind_the_projector_of_simkd_it_equals_that_golden(self, dtype):
        stored = golden.arrays("simkd_A")
        student, teacher = leaves((stored["in_s"].to(dtype), stored["in_t"].to(dtype)))
        projected = student
        for place, padding in ((0, 0), (3, 1), (6, 0)):
            names = f"param_transfer.{place}", f"param_transfer.{place + 1}"
            projected = conv_norm(projected, stored, *names, padding=padding).relu()
        assert_golden(hint_loss(projected, teacher), student, stored)
        if dtype == torch.float64:
            torch.testing.assert_close(projected, stored["out_projected"])
