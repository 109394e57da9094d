import math

import pytest
import torch
from _harness import golden
from _harness.losses import Golden, LossCase, LossTester, map_tensors, seeded
from torch.nn import functional as F

from congruence.losses import OverhaulLoss, batch_norm_margin, overhaul_loss
from congruence.losses.ofd import CHECKS


def maps(generator, rows):
    shape = (rows, 3, 2, 4)
    student, teacher = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, teacher, -torch.rand(3, generator=generator, dtype=torch.float64)


def reference(student, teacher, margin):
    values = []
    for ours, theirs in zip(student, teacher, strict=True):
        total = 0.0
        for index in torch.cartesian_prod(*map(torch.arange, ours.shape)).tolist():
            s, t = ours[*index].item(), max(theirs[*index].item(), margin[index[0]].item())
            total += (s - t) ** 2 if s > t or t > 0 else 0.0
        values.append(total)
    return torch.tensor(values, dtype=torch.float64)


def extremes(case):
    student, teacher, margin = case.inputs(seeded(1), 6)
    return {
        "all zero": map_tensors(torch.zeros_like, (student, teacher, margin)),
        "large and apart": (1e4 * student, -1e4 * student, margin),
        "far below the margin": (student - 1e30, teacher - 1e30, margin),
        "tiny": map_tensors(lambda t: 1e-20 * t, (student, teacher, margin)),
        "one sample": (student[:1], teacher[:1], margin),
        "one position": (student[..., :1, :1], teacher[..., :1, :1], margin),
    }


class TestOfd(LossTester):
    case = LossCase(
        function=overhaul_loss,
        module=OverhaulLoss,
        checks=CHECKS,
        inputs=maps,
        reference=reference,
        goldens=(Golden("ofd_loss_A", inputs=("in_s", "in_t", "in_margin")),),
        differentiable=(0, 1),
        extremes=extremes,
        bad_arguments=(
            (
                (torch.zeros(4, 3, 2, 2), torch.zeros(4, 5, 2, 2), torch.zeros(5)),
                "got `student_map` [4, 3, 2, 2], `teacher_map` [4, 5, 2, 2].",
            ),
            ((torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(3)), "`student_map` must be a non-empty 4-D tensor"),
            (
                (torch.zeros(4, 3, 2, 2), torch.zeros(4, 3, 2, 2), torch.zeros(4)),
                "`margin` must be of shape [3], one for each channel, got [4].",
            ),
        ),
    )

    def test_the_golden_connector_gives_the_golden_loss(self):
        stored = golden.arrays("ofd_A")
        for dtype, loss, prefix, rtol in (
            (torch.float64, "loss", "grad_", 1e-10),
            (torch.float32, "loss_f32", "gradf32_", 2e-5),
        ):
            cast = {key: value.to(dtype) for key, value in stored.items()}
            student = cast["in_s"].requires_grad_()
            hidden = F.conv2d(student, cast["param_c.0.weight"])
            hidden = F.batch_norm(hidden, None, None, cast["param_c.1.weight"], cast["param_c.1.bias"], training=True)
            value = overhaul_loss(hidden, cast["in_t"], cast["in_margin"])
            torch.testing.assert_close(value, cast[loss], rtol=rtol, atol=0)
            value.backward()
            wanted = cast[f"{prefix}s"]
            torch.testing.assert_close(student.grad, wanted, rtol=rtol, atol=rtol * wanted.abs().max().item())

    def test_the_golden_batch_norm_gives_the_golden_margin(self):
        stored, about = golden.arrays("ofd_A"), golden.description("ofd_A")["hyperparameters"]
        weight, bias = (torch.tensor(about[key], dtype=torch.float64) for key in ("bn_weight", "bn_bias"))
        torch.testing.assert_close(batch_norm_margin(weight, bias).float(), stored["in_margin"], rtol=1e-6, atol=1e-7)

    def test_the_margin_is_the_mean_of_the_negative_values(self):
        draws = torch.randn(400_000, generator=seeded(0), dtype=torch.float64)
        for weight, bias in ((1.3, -0.7), (-0.8, 0.6), (0.5, 1.0)):
            values = abs(weight) * draws + bias
            margin = batch_norm_margin(*(torch.tensor([v], dtype=torch.float64) for v in (weight, bias)))
            assert margin.item() == pytest.approx(values[values < 0].mean().item(), abs=5e-3)

    def test_the_margin_at_its_edges(self):
        weight = torch.tensor([1.0, 1.0, 0.0, 0.0, 1e-30, -2.0, 1.0])
        bias = torch.tensor([3.0, 3.2, -1.5, 2.0, -1.0, 100.0, -1e4])
        margin = batch_norm_margin(weight, bias)
        rare = 0.5 * math.erfc(3 / math.sqrt(2))  # Φ(-3) > 0.001
        mean = 3 - math.exp(-4.5) / math.sqrt(2 * math.pi) / rare
        expected = torch.tensor([mean, -3.0, -1.5, 0.0, -1.0, -6.0, -1e4])
        torch.testing.assert_close(margin, expected, rtol=1e-5, atol=0)
        assert not batch_norm_margin(weight.requires_grad_(), bias).requires_grad
        with pytest.raises(ValueError, match=r"`batch_norm_margin`: .*got `weight` \[2\], `bias` \[3\]\."):
            batch_norm_margin(torch.ones(2), torch.ones(3))

    @pytest.mark.parametrize("sizes", [((4, 4), (2, 2)), ((2, 2), (4, 4))])
    def test_the_larger_map_is_pooled_first(self, sizes):
        maps = [torch.randn(2, 3, *size, generator=seeded(3)).double() for size in sizes]
        small = [F.adaptive_avg_pool2d(x, 2) for x in maps]
        margin = -torch.ones(3).double()
        torch.testing.assert_close(overhaul_loss(*maps, margin), overhaul_loss(*small, margin))
