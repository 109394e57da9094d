import math

import pytest
import torch
import torch.nn.functional as F
from _harness import golden
from _harness.learned import assert_golden, conv_norm
from _harness.losses import LossCase, LossTester, leaves, seeded

from congruence.losses import InterChannelCorrelationLoss, inter_channel_correlation_loss
from congruence.losses.ickd import CHECKS


def maps(generator, rows):
    return tuple(torch.randn(rows, 3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))


def correlations(channels):
    rows = [[sum(a * b for a, b in zip(p, q, strict=True)) for q in channels] for p in channels]
    lengths = [math.sqrt(sum(v * v for v in row)) for row in rows]
    return [v / length for row, length in zip(rows, lengths, strict=True) for v in row]


def reference(student, teacher):
    values = []
    for pair in zip(student.flatten(2).tolist(), teacher.flatten(2).tolist(), strict=True):
        ours, theirs = (correlations(sample) for sample in pair)
        values.append(sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / len(pair[0]))
    return torch.tensor(values, dtype=torch.float64)


class TestInterChannelCorrelation(LossTester):
    case = LossCase(
        function=inter_channel_correlation_loss,
        module=InterChannelCorrelationLoss,
        checks=CHECKS,
        inputs=maps,
        reference=reference,
        no_golden="the golden case has a learned convolution before it: tested below",
        bad_arguments=(
            ((torch.zeros(4, 3, 2, 2), torch.zeros(4, 5, 2, 2)), "`student_map` [4, 3, 2, 2], `teacher_map` [4, 5, 2"),
            ((torch.zeros(4, 3), torch.zeros(4, 3)), "`student_map` must be a non-empty 4-D tensor, got shape [4, 3]."),
            ((torch.zeros(4, 3, 2, 2), torch.zeros(5, 3, 2, 2)), "`teacher_map` [5, 3, 2, 2]."),
        ),
    )

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_behind_its_convolution_it_equals_the_golden(self, dtype):
        stored = golden.arrays("ickd_A")
        student, teacher = leaves((stored["in_s"].to(dtype), stored["in_t"].to(dtype)))
        embedded = conv_norm(student, stored, "param_embed_s.conv2d", "param_embed_s.l2norm")
        value = inter_channel_correlation_loss(embedded, teacher)
        assert_golden(value, student, stored)
        if dtype == torch.float64:
            torch.testing.assert_close(embedded, stored["out_embedded"])
            assert_golden(value / 8, student, stored, alternative="alt__imagenet_code__")

    def test_places_and_scale_do_not_matter(self):
        student, _ = maps(seeded(), 4)
        assert inter_channel_correlation_loss(7 * student.flip(2), student).item() < 1e-25

    def test_the_larger_map_is_pooled(self):
        small, large = (torch.randn(2, 3, side, side, generator=seeded(side)) for side in (2, 6))
        pooled = F.adaptive_avg_pool2d(large, 2)
        expected = inter_channel_correlation_loss(small, pooled)
        torch.testing.assert_close(inter_channel_correlation_loss(small, large), expected)
