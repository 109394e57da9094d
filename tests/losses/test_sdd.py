import pytest
import torch
import torch.nn.functional as F
from _harness import golden
from _harness.labelled import LabelledLossTester
from _harness.losses import Golden, LossCase, gradients, leaves, seeded, usual_extremes

from congruence.losses import (
    ScaleDecoupledLoss,
    decoupled_kd_loss,
    distillation_loss,
    normalized_kd_loss,
    region_logits,
    scale_decoupled_loss,
)
from congruence.losses.sdd import CHECKS


def regions(generator, rows, classes=4):
    student, teacher = (3 * torch.randn(rows, classes, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, teacher, torch.randint(0, classes, (rows,), generator=generator)


def reference(student, teacher, labels, *, base="kd", temperature=4.0, alpha=1.0, beta=2.0, gamma=1.5, **settings):
    more = settings.get("complementary_weight", 2.0)
    values = []
    for b in range(len(labels)):
        label = labels[b : b + 1]
        right = [teacher[b, :, r].argmax().item() == label.item() for r in range(teacher.shape[2])]
        total = 0.0
        for r in range(teacher.shape[2]):
            s, t = student[b : b + 1, :, r], teacher[b : b + 1, :, r]
            if base == "kd":
                value = distillation_loss(s, t, temperature=temperature)
            elif base == "dkd":
                value = decoupled_kd_loss(s, t, label, alpha=alpha, beta=beta, temperature=temperature)
            else:
                value = normalized_kd_loss(s, t, label, gamma=gamma, temperature=temperature)
            total += (more if right[r] != right[0] else 1.0) * value.item()
        values.append(total / teacher.shape[2])
    return torch.tensor(values, dtype=torch.float64)


def extremes(case):
    return {label: given for label, given in usual_extremes(case).items() if "column" not in label}


NKD = {"base": "nkd", "temperature": 2, "gamma": 1.0, "complementary_weight": 0}
INPUTS = ("in_s", "in_t", "in_y")


class TestScaleDecoupled(LabelledLossTester):
    case = LossCase(
        function=scale_decoupled_loss,
        module=ScaleDecoupledLoss,
        checks=CHECKS,
        inputs=regions,
        reference=reference,
        settings=({}, {"base": "dkd", "alpha": 0.5, "beta": 8.0}, NKD),
        goldens=(Golden("sdd_kd_A", inputs=INPUTS), Golden("sdd_dkd_A", {"base": "dkd"}, inputs=INPUTS)),
        zero_at_equal=({}, {"base": "dkd"}),
        differentiable=(0,),  # the teacher's share of the label is a constant of "nkd"
        extremes=extremes,
        bad_arguments=(
            (
                (torch.zeros(4, 3, 5), torch.zeros(4, 3, 4), torch.zeros(4).long()),
                "got `student_regions` [4, 3, 5], `teacher_regions` [4, 3, 4].",
            ),
            ((torch.zeros(4, 3, 2), torch.zeros(4, 3, 2), torch.zeros(3).long()), "`labels` [3]."),
            ((torch.zeros(2, 3, 2), torch.zeros(2, 3, 2), torch.tensor([0, 3])), "class labels in [0, 3)"),
            ((torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4).long()), "must be a non-empty 3-D tensor"),
            (
                (torch.zeros(2, 1, 5), torch.zeros(2, 1, 5), torch.zeros(2).long()),
                "two classes or more, got [2, 1, 5].",
            ),
        ),
    )

    def mask_classes(self, logits, out):
        return logits.masked_fill(out[:, :, None], -torch.inf)

    def test_nkd_equals_the_golden_with_its_mask(self):
        stored = golden.arrays("sdd_nkd_A")
        student, teacher = leaves((stored["in_s"].double(), stored["in_t"].double()))
        value = scale_decoupled_loss(student, teacher, stored["in_y"], base="nkd", temperature=1.0)
        torch.testing.assert_close(value, stored["alt__non_target_mask__loss"], rtol=1e-10, atol=0)
        (ours,) = gradients(value, (student,))
        torch.testing.assert_close(ours, stored["alt__non_target_mask__grad_s"], rtol=1e-9, atol=1e-12)

    def test_of_one_region_it_is_its_base(self):
        student, teacher, labels = regions(seeded(), 6)
        whole = student[:, :, :1], teacher[:, :, :1]
        expected = distillation_loss(student[:, :, 0], teacher[:, :, 0])
        torch.testing.assert_close(scale_decoupled_loss(*whole, labels), expected)


class TestRegionLogits:
    @pytest.mark.parametrize(
        ("dtype", "loss", "gradient", "rtol"),
        [(torch.float64, "loss", "grad_s", 1e-10), (torch.float32, "loss_f32", "gradf32_s", 2e-5)],
    )
    def test_equals_the_golden(self, dtype, loss, gradient, rtol):
        stored = golden.arrays("sdd_regions_A")
        (student,) = leaves((stored["in_s"].to(dtype),))
        weight, bias = (stored[f"param_fc.{part}"].to(dtype) for part in ("weight", "bias"))
        found = region_logits(student, weight, bias, scales=(1, 2))
        if dtype == torch.float64:
            torch.testing.assert_close(found, stored["out_logits"], rtol=1e-10, atol=1e-12)
            pooled = region_logits(student, torch.eye(16).double(), None, scales=(1, 2))
            torch.testing.assert_close(pooled, stored["out_pooled"], rtol=1e-10, atol=1e-12)
        value = (stored["in_weight"].to(dtype) * found).sum()
        torch.testing.assert_close(value, stored[loss].to(dtype), rtol=rtol, atol=0)
        expected = stored[gradient].to(dtype)
        (ours,) = gradients(value, (student,))
        torch.testing.assert_close(ours, expected, rtol=rtol, atol=rtol * expected.abs().max().item())

    @pytest.mark.parametrize("size", [(8, 8), (7, 7), (4, 2), (1, 1), (3, 9)])
    def test_regions_are_pooled_of_four_by_four(self, size):
        maps = torch.randn(2, 3, *size, generator=seeded(), dtype=torch.float64)
        weight, bias = torch.randn(4, 3, generator=seeded()).double(), torch.arange(4.0).double()
        found = region_logits(maps, weight, bias)
        four = F.adaptive_avg_pool2d(maps, 4)
        pooled = [F.adaptive_avg_pool2d(four, k).flatten(2) for k in (1, 2, 4)]
        expected = F.linear(torch.cat(pooled, 2).mT, weight, bias).mT
        torch.testing.assert_close(found, expected)
        other = region_logits(maps, weight, bias, scales=[4, 1])
        torch.testing.assert_close(other, torch.cat([found[:, :, 5:], found[:, :, :1]], 2))

    def test_half_precision_and_gradients(self):
        maps, weight = torch.randn(2, 3, 4, 4, generator=seeded()), torch.randn(4, 3, generator=seeded(1))
        found = region_logits(maps.bfloat16(), weight, None)
        assert (found.dtype, found.shape) == (torch.float32, (2, 4, 21))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(region_logits(maps.bfloat16(), weight, None), found)
        sides = leaves((maps[:1].double(), weight.double(), torch.ones(4).double()))
        assert torch.autograd.gradcheck(region_logits, sides)
        assert region_logits(maps, weight.double(), None).dtype == torch.float64

    @pytest.mark.parametrize(
        ("arguments", "scales", "part"),
        [
            ((torch.zeros(2, 3), torch.zeros(4, 3), None), (1,), "`feature_map` must be a non-empty 4-D tensor"),
            (
                (torch.zeros(2, 3, 4, 4), torch.zeros(4, 5), None),
                (1,),
                "`weight` must be of shape [C, 3] for `feature_map` [2, 3, 4, 4], got shape [4, 5].",
            ),
            (
                (torch.zeros(2, 3, 4, 4), torch.zeros(4, 3), torch.zeros(3)),
                (1,),
                "`bias` must be None or of shape [4], got shape [3].",
            ),
            *(
                ((torch.zeros(2, 3, 4, 4), torch.zeros(4, 3), None), scales, "`scales` must be different ones of 1, 2")
                for scales in ((), (1, 1), (3,), 4, "12")
            ),
        ],
    )
    def test_what_does_not_fit_is_told(self, arguments, scales, part):
        with pytest.raises(ValueError) as error:
            region_logits(*arguments, scales=scales)
        assert str(error.value).startswith(f"`region_logits`: {part}")
