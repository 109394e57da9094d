import torch
import torch.nn.functional as F
from _harness import golden
from _harness.losses import LossCase, LossTester, gradients, leaves, seeded

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
