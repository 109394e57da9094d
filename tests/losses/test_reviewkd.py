import pytest
import torch
from _harness import golden
from _harness.losses import LossCase, LossTester, gradients, leaves, map_tensors, seeded
from torch.nn import functional as F

from congruence.losses import HierarchicalContextLoss, hierarchical_context_loss
from congruence.losses.reviewkd import CHECKS

LEVELS = ((3, 8), (4, 5), (2, 4), (5, 2), (5, 1))


def maps(generator, rows):
    sides = []
    for _ in range(2):
        sides.append([torch.randn(rows, c, h, h, generator=generator, dtype=torch.float64) for c, h in LEVELS])
    return tuple(sides)


def reference(student_maps, teacher_maps):
    total = torch.zeros((), dtype=torch.float64)
    for student, teacher in zip(student_maps, teacher_maps, strict=True):
        side = student.shape[2]
        value, weight, each = (student - teacher).square().mean(), 1.0, 1.0
        for grid in (4, 2, 1):
            if grid >= side:
                continue
            each /= 2
            edges = [(k * side // grid, -(-(k + 1) * side // grid)) for k in range(grid)]
            squares = []
            for a, b in edges:
                for c, d in edges:
                    means = [x[:, :, a:b, c:d].mean((2, 3)) for x in (student, teacher)]
                    squares.append((means[0] - means[1]).square().mean())
            value = value + each * sum(squares) / len(squares)
            weight += each
        total = total + value / weight
    return total


def extremes(case):
    usual = case.inputs(seeded(1), 6)
    return {
        "all zero": map_tensors(torch.zeros_like, usual),
        "large and apart": map_tensors(lambda t: 1e4 * t, usual),
        "tiny": map_tensors(lambda t: 1e-20 * t, usual),
        "one sample": map_tensors(lambda t: t[:1], usual),
        "one channel": map_tensors(lambda t: t[:, :1], usual),
    }


BAD = [torch.zeros(4, 3, 2, 2)]


class TestReviewkd(LossTester):
    case = LossCase(
        function=hierarchical_context_loss,
        module=HierarchicalContextLoss,
        checks=CHECKS,
        inputs=maps,
        reference=reference,
        no_golden="its golden cases hold lists of maps: below",
        extremes=extremes,
        bad_arguments=(
            ((BAD, [torch.zeros(4, 5, 2, 2)]), "got `student_maps[0]` [4, 3, 2, 2], `teacher_maps[0]` [4, 5, 2, 2]."),
            (([*BAD, BAD[0][:3]],) * 2, "got `student_maps[1]` [3, 3, 2, 2], `teacher_maps[1]` [3, 3, 2, 2]."),
            ((BAD, BAD * 2), "`teacher_maps` must be as many as `student_maps` (1), got 2."),
            (([], []), "`student_maps` must be a list of 1 or more maps, got 0."),
            ((BAD[0], BAD[0]), "`student_maps` must be a list of 1 or more maps, got Tensor."),
            (([torch.zeros(4, 3)], BAD), "`student_maps[0]` must be a non-empty 4-D tensor, got shape [4, 3]."),
        ),
    )

    def test_equals_the_golden(self):
        stored = golden.arrays("reviewkd_hcl_A")
        for dtype, loss, prefix, rtol in (
            (torch.float64, "loss", "grad_", 1e-10),
            (torch.float32, "loss_f32", "gradf32_", 2e-5),
        ):
            sides = leaves(tuple([stored[f"in_{side}{k}"].to(dtype) for k in range(5)] for side in "st"))
            value = hierarchical_context_loss(*sides)
            torch.testing.assert_close(value, stored[loss].to(dtype), rtol=rtol, atol=0)
            for k, gradient in enumerate(gradients(value, sides)[:5]):
                wanted = stored[f"{prefix}s{k}"].to(dtype)
                torch.testing.assert_close(gradient, wanted, rtol=rtol, atol=rtol * wanted.abs().max().item())

    @pytest.mark.parametrize("sizes", [((8, 8), (4, 4)), ((4, 4), (8, 8))])
    def test_the_larger_map_is_pooled_first(self, sizes):
        maps = [[torch.randn(2, 3, *size, generator=seeded(3)).double()] for size in sizes]
        small = [[F.adaptive_avg_pool2d(x[0], 4)] for x in maps]
        torch.testing.assert_close(hierarchical_context_loss(*maps), hierarchical_context_loss(*small))
