import math
import statistics

import pytest
import torch
import torch.nn.functional as F
from _harness import golden
from _harness.losses import LossCase, LossTester, gradients, leaves, seeded

from congruence.losses import DistFeatureLoss, dist_feature_loss, dist_loss
from congruence.losses.dist_plus import CHECKS


def maps(generator, rows):
    return tuple(torch.randn(rows, 3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))


def correlation(a, b, eps, *, bounded=False):
    a, b = ([v - statistics.fmean(x) for v in x] for x in (a, b))
    own = [math.sqrt(sum(v * v for v in x)) for x in (a, b)]
    divisor = max(own[0], eps) * max(own[1], eps) if bounded else own[0] * own[1] + eps
    return sum(p * q for p, q in zip(a, b, strict=True)) / divisor


def reference(student, teacher, *, channel_weight=1.0, spatial_weight=1.0, eps=1e-8):
    s, t = (x.flatten(2) for x in (student, teacher))
    rows, _, places = s.shape
    pairs = [(s[b, :, p].tolist(), t[b, :, p].tolist()) for b in range(rows) for p in range(places)]
    channels = 1 - statistics.fmean(correlation(*pair, eps) for pair in pairs)
    pairs = [(s[:, :, p].sum(1).tolist(), t[:, :, p].sum(1).tolist()) for p in range(places)]
    samples = 1 - statistics.fmean(correlation(*pair, eps, bounded=True) for pair in pairs)
    return torch.tensor(channel_weight * channels + spatial_weight * samples, dtype=torch.float64)


class TestDistFeature(LossTester):
    case = LossCase(
        function=dist_feature_loss,
        module=DistFeatureLoss,
        checks=CHECKS,
        inputs=maps,
        reference=reference,
        settings=({}, {"channel_weight": 2, "spatial_weight": 0}, {"channel_weight": 0.0, "eps": 0.5}),
        zero_at_equal=(),  # ε leaves about 1e-8
        no_golden="the golden case has the loss of logits beside it: tested below",
        bad_arguments=(
            ((torch.zeros(4, 3, 2, 2), torch.zeros(4, 5, 2, 2)), "`student_map` [4, 3, 2, 2], `teacher_map` [4, 5, 2"),
            ((torch.zeros(4, 3), torch.zeros(4, 3)), "`student_map` must be a non-empty 4-D tensor, got shape [4, 3]."),
            ((torch.zeros(4, 3, 2, 2), torch.zeros(5, 3, 2, 2)), "`teacher_map` [5, 3, 2, 2]."),
        ),
    )

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_beside_the_loss_of_logits_it_equals_the_golden(self, dtype):
        stored = golden.arrays("dist_plus_A")
        double = dtype == torch.float64
        suffix, prefix, rtol = ("", "grad_", 1e-10) if double else ("_f32", "gradf32_", 2e-5)
        names = ("in_s", "in_t", "in_s_map", "in_t_map")
        s, t, s_map, t_map = leaves(tuple(stored[name].to(dtype) for name in names))
        features = dist_feature_loss(s_map, t_map)
        torch.testing.assert_close(
            features, (stored["out_channel"] + stored["out_spatial"]).to(dtype), rtol=rtol, atol=0
        )
        # Ours of the logits has an ε beside its norms, which the one in this case has not.
        value = dist_loss(s, t) + features
        torch.testing.assert_close(value, stored[f"loss{suffix}"].to(dtype), rtol=max(rtol, 1e-6), atol=0)
        for key, side, off in (("s", s, 1e-5), ("s_map", s_map, 0.0)):
            expected = stored[prefix + key].to(dtype)
            (ours,) = gradients(value, (side,))
            atol = max(rtol, off) * expected.abs().max().item()
            torch.testing.assert_close(ours, expected, rtol=max(rtol, off), atol=atol)
        if not double:
            return
        for weight, key in ((1.0, "out_channel"), (0.0, "out_spatial")):
            found = dist_feature_loss(s_map, t_map, channel_weight=weight, spatial_weight=1 - weight)
            torch.testing.assert_close(found, stored[key], rtol=1e-10, atol=0)
        # torchdistill's: the other sign of the correlation over channels.
        channels = dist_feature_loss(s_map, t_map, spatial_weight=0.0)
        theirs = stored["out_dist"] + dist_feature_loss(s_map, t_map) + 1 - 2 * channels
        torch.testing.assert_close(theirs, stored["alt__torchdistill__loss"], rtol=1e-10, atol=0)
        (ours,) = gradients(theirs, (s_map,))
        torch.testing.assert_close(ours, stored["alt__torchdistill__grad_s_map"], rtol=1e-9, atol=1e-12)

    def test_equal_and_opposite(self):
        student, _ = maps(seeded(), 5)
        assert abs(dist_feature_loss(student, student).item()) < 1e-7
        assert dist_feature_loss(3 - 2 * student, student).item() == pytest.approx(4)

    @pytest.mark.parametrize(
        ("shape", "left_out"), [((1, 3, 2, 2), "spatial_weight"), ((4, 1, 2, 2), "channel_weight")]
    )
    def test_what_cannot_correlate_is_zero_with_zero_gradient(self, shape, left_out):
        sides = leaves(tuple(torch.randn(shape, generator=seeded(k)) for k in (0, 1)))
        other = {"channel_weight": 0.0, "spatial_weight": 0.0, left_out: 1.0}
        value = dist_feature_loss(*sides, **other)
        assert value.item() == 0
        assert not any(g.any() for g in gradients(value, sides))

    def test_places_without_activation_have_no_gradient(self):
        student, teacher = (torch.randn(3, 4, 2, 2, generator=seeded(k)).relu() for k in (0, 1))
        student[:, :, 0, 0] = 0.1
        student.requires_grad_()
        for settings in ({"spatial_weight": 0.0}, {"channel_weight": 0.0}):
            (gradient,) = gradients(dist_feature_loss(student, teacher, **settings), (student,))
            assert not gradient[:, :, 0, 0].any()
            assert 0 < gradient.abs().max() < 1

    def test_the_larger_map_is_pooled(self):
        small, large = (torch.randn(2, 3, side, side, generator=seeded(side)) for side in (2, 6))
        expected = dist_feature_loss(small, F.adaptive_avg_pool2d(large, 2))
        torch.testing.assert_close(dist_feature_loss(small, large), expected)
