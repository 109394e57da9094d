import math

import pytest
import torch
from _harness import golden
from _harness.losses import LossCase, LossTester, map_tensors, seeded
from torch.nn import functional as F

from congruence.losses import VariationalLoss, variational_loss
from congruence.losses.vid import CHECKS


def maps(generator, rows):
    shape = (rows, 3, 2, 4)
    mean, teacher = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return mean, teacher, torch.randn(3, generator=generator, dtype=torch.float64)


def reference(mean, teacher, raw, *, eps=1e-5):
    total = 0.0
    for index in torch.cartesian_prod(*map(torch.arange, mean.shape)).tolist():
        variance = math.log(1 + math.exp(raw[index[1]])) + eps
        total += 0.5 * ((mean[*index] - teacher[*index]).item() ** 2 / variance + math.log(variance))
    return torch.tensor(total / mean.numel(), dtype=torch.float64)


def extremes(case):
    mean, teacher, raw = case.inputs(seeded(1), 6)
    return {
        "all zero": map_tensors(torch.zeros_like, (mean, teacher, raw)),
        "large and apart": (1e4 * mean, 1e4 * teacher, raw),
        "far apart, no variance": (1e4 * mean, -1e4 * mean, raw - 1e4),
        "a large variance": (mean, teacher, raw + 1e4),
        "tiny": (1e-20 * mean, 1e-20 * teacher, 1e-20 * raw),
        "one sample": (mean[:1], teacher[:1], raw),
    }


class TestVid(LossTester):
    case = LossCase(
        function=variational_loss,
        module=VariationalLoss,
        checks=CHECKS,
        inputs=maps,
        reference=reference,
        settings=({}, {"eps": 1e-2}),
        no_golden="its golden case holds the regressor as well: below",
        zero_at_equal=(),
        extremes=extremes,
        bad_arguments=(
            (
                (torch.zeros(4, 3, 2, 2), torch.zeros(4, 5, 2, 2), torch.zeros(5)),
                "got `mean` [4, 3, 2, 2], `teacher` [4, 5, 2, 2].",
            ),
            ((torch.zeros(4, 3), torch.zeros(5, 3), torch.zeros(3)), "got `mean` [4, 3], `teacher` [5, 3]."),
            (
                (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4)),
                "`raw_variance` must be of shape [3], one for each channel, got [4].",
            ),
            ((torch.zeros(4), torch.zeros(4), torch.zeros(4)), "`mean` must be a non-empty 2-D or 4-D tensor"),
        ),
    )

    def test_the_golden_regressor_gives_the_golden_loss(self):
        stored = golden.arrays("vid_A")
        for dtype, loss, prefix, rtol in (
            (torch.float64, "loss", "grad_", 1e-10),
            (torch.float32, "loss_f32", "gradf32_", 2e-5),
        ):
            cast = {key: value.to(dtype) for key, value in stored.items()}
            student, raw = cast["in_s"].requires_grad_(), cast["param_log_scale"].requires_grad_()
            hidden = student
            for layer in (0, 2, 4):
                hidden = F.conv2d(F.relu(hidden) if layer else hidden, cast[f"param_regressor.{layer}.weight"])
            value = variational_loss(hidden, cast["in_t"], raw)
            torch.testing.assert_close(value, cast[loss], rtol=rtol, atol=0)
            value.backward()
            wanted = cast[f"{prefix}s"]
            torch.testing.assert_close(student.grad, wanted, rtol=rtol, atol=rtol * wanted.abs().max().item())
            if dtype == torch.float64:
                torch.testing.assert_close(raw.grad, cast["gradparam_log_scale"], rtol=rtol, atol=1e-12)

    def test_is_a_gaussian_likelihood(self):
        mean, teacher, raw = maps(seeded(0), 4)
        variance = (F.softplus(raw) + 1e-5)[None, :, None, None].expand_as(mean)
        expected = F.gaussian_nll_loss(mean, teacher, variance)
        torch.testing.assert_close(variational_loss(mean, teacher, raw), expected)

    @pytest.mark.parametrize("sizes", [((4, 4), (2, 2)), ((2, 2), (4, 4))])
    def test_the_larger_map_is_pooled_first(self, sizes):
        mean, teacher = (torch.randn(2, 3, *size, generator=seeded(3)).double() for size in sizes)
        small = [F.adaptive_avg_pool2d(x, 2) for x in (mean, teacher)]
        raw = torch.zeros(3).double()
        torch.testing.assert_close(variational_loss(mean, teacher, raw), variational_loss(*small, raw))
