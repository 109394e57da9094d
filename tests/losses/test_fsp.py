import pytest
import torch
import torch.nn.functional as F
from _harness import golden
from _harness.losses import LossCase, LossTester, gradients, leaves, seeded
from _harness.memory import largest_tensor

from congruence.losses import FspLoss, fsp_loss
from congruence.losses.fsp import CHECKS

CHANNELS = (2, 3, 2)


def maps(generator, rows):
    sizes = ((2, 4), (2, 4), (2, 2))
    return tuple(
        [
            torch.randn(rows, c, *size, generator=generator, dtype=torch.float64)
            for c, size in zip(CHANNELS, sizes, strict=True)
        ]
        for _ in range(2)
    )


def reference(student, teacher):
    def flow(first, second):
        height, width = (min(first.shape[k], second.shape[k]) for k in (1, 2))
        first, second = (F.adaptive_avg_pool2d(f, (height, width)).flatten(1).tolist() for f in (first, second))
        positions = range(height * width)
        return [[sum(a[p] * b[p] for p in positions) / len(positions) for b in second] for a in first]

    values = []
    for sample in range(len(student[0])):
        total = 0.0
        for k in range(len(student) - 1):
            ours, theirs = (flow(side[k][sample], side[k + 1][sample]) for side in (student, teacher))
            entries = [(a - b) ** 2 for p, q in zip(ours, theirs, strict=True) for a, b in zip(p, q, strict=True)]
            total += sum(entries) / len(entries)
        values.append(total)
    return torch.tensor(values, dtype=torch.float64)


ONES = torch.ones(4, 2, 3, 3)


class TestFsp(LossTester):
    case = LossCase(
        function=fsp_loss,
        module=FspLoss,
        checks=CHECKS,
        inputs=maps,
        reference=reference,
        no_golden="fsp_A has lists of maps: a test of its own",
        bad_arguments=(
            ((ONES, [ONES, ONES]), "`student_maps` must be a list of 2 or more maps, got Tensor."),
            (([ONES], [ONES]), "`student_maps` must be a list of 2 or more maps, got 1."),
            (([ONES, ONES], [ONES] * 3), "`teacher_maps` must be as many as `student_maps` (2), got 3."),
            (([ONES, ONES[0]], [ONES, ONES]), "`student_maps[1]` must be a non-empty 4-D tensor, got shape [2, 3, 3]."),
            (([ONES, ONES], [ONES, ONES[:, :1]]), "`student_maps[1]` [4, 2, 3, 3], `teacher_maps[1]` [4, 1, 3, 3]."),
            (([ONES, ONES[:3]], [ONES, ONES[:3]]), "`student_maps[1]` [3, 2, 3, 3], `teacher_maps[1]` [3, 2, 3, 3]."),
        ),
    )

    def test_equals_the_golden_of_lists(self):
        stored = golden.arrays("fsp_A")
        for dtype, loss, prefix, rtol in (
            (torch.float64, "loss", "grad_s", 1e-10),
            (torch.float32, "loss_f32", "gradf32_s", 2e-5),
        ):
            sides = leaves(tuple([stored[f"in_{side}{k}"].to(dtype) for k in range(3)] for side in "st"))
            value = fsp_loss(*sides)
            torch.testing.assert_close(value, stored[loss].to(dtype), rtol=rtol, atol=0)
            for k, gradient in enumerate(gradients(value, (sides[0],))):
                expected = stored[f"{prefix}{k}"].to(dtype)
                torch.testing.assert_close(gradient, expected, rtol=rtol, atol=rtol * expected.abs().max().item())

    def test_sizes_of_the_sides_may_differ(self):
        student = [torch.ones(2, 3, 8, 8), torch.ones(2, 4, 4, 4)]
        teacher = [torch.ones(2, 3, 2, 2), torch.ones(2, 4, 6, 6)]
        assert fsp_loss(student, teacher).item() == 0.0
        assert fsp_loss(student, [2 * teacher[0], teacher[1]]).item() == 1.0

    def test_pairs_are_summed(self):
        student, teacher = maps(seeded(0), 3)
        parts = fsp_loss(student[:2], teacher[:2]) + fsp_loss(student[1:], teacher[1:])
        torch.testing.assert_close(fsp_loss(student, teacher), parts)

    @pytest.mark.parametrize("size", [(1, 2), (2, 1)])
    def test_many_channels_are_the_same_definition(self, size):
        """From 32 entries of the flow matrix for each pair of positions another form of it is computed."""
        sides = [
            [torch.randn(2, c, *size, generator=seeded(k + c), dtype=torch.float64) for c in (12, 11, 13)]
            for k in range(2)
        ]
        expected = reference(*sides)
        torch.testing.assert_close(fsp_loss(*sides, reduction="none"), expected, rtol=1e-10, atol=0)
        assert fsp_loss(sides[0], sides[0]).item() == 0
        narrow = [[maps.float() for maps in side] for side in sides]
        torch.testing.assert_close(fsp_loss(*narrow), expected.mean().float(), rtol=1e-5, atol=0)
        # The same flow from other features: 0, up to the rounding of what cancels.
        scaled = [maps * factor for maps, factor in zip(sides[1], (3.0, 1 / 3, 3.0), strict=True)]
        assert 0 <= fsp_loss(scaled, sides[1]).item() < 1e-13
        maps = [m.requires_grad_() for m in sides[0][:2]]
        assert torch.autograd.gradcheck(lambda *m: fsp_loss(list(m), sides[1][:2]), maps)

    @pytest.mark.parametrize(("channels", "size"), [((40, 64), (2, 2)), ((4, 6), (9, 8)), ((16, 32), (6, 6))])
    def test_nothing_is_larger_than_a_few_times_the_maps(self, channels, size):
        sides = leaves(tuple([torch.randn(3, c, *size, generator=seeded(k)) for c in channels] for k in range(2)))
        largest = largest_tensor(lambda: fsp_loss(*sides).backward())
        positions = size[0] * size[1]
        inputs = 3 * max(channels) * positions
        assert largest <= max(2 * inputs, 4 * 3 * min(channels[0] * channels[1], positions**2))
