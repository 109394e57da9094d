import math

import pytest
import torch
import torch.nn.functional as F
from _harness import golden
from _harness.losses import LossCase, LossTester, gradients, leaves, seeded
from _harness.tokens import TokenLossTester, pairs_of_tokens, real_rows

from congruence.losses import MaskedGenerationLoss, TokenMimicLoss, masked_generation_loss, token_mimic_loss
from congruence.losses.vitkd import CHECKS, GENERATION_CHECKS


def squares(student, teacher):
    return sum((a - b) ** 2 for s, t in zip(student, teacher, strict=True) for a, b in zip(s, t, strict=True))


def mimic_reference(student, teacher, *, mask=None):
    sides = zip(real_rows(student, mask), real_rows(teacher, mask), strict=True)
    return torch.tensor([float(squares(*samples)) for samples in sides], dtype=torch.float64)


class TestTokenMimic(TokenLossTester):
    case = LossCase(
        function=token_mimic_loss,
        module=TokenMimicLoss,
        checks=CHECKS,
        inputs=pairs_of_tokens(3, 3),
        reference=mimic_reference,
        no_golden="the golden case adds several terms: tested below",
        bad_arguments=(
            ((torch.zeros(4, 3, 2), torch.zeros(4, 3, 5)), "`student_tokens` [4, 3, 2], `teacher_tokens` [4, 3, 5]."),
            ((torch.zeros(4, 3), torch.zeros(4, 3)), "`student_tokens` must be a non-empty 3-D tensor, got shape [4,"),
            ((torch.zeros(4, 3, 2), torch.zeros(4, 3, 2).long()), "`teacher_tokens` must be a floating-point tensor"),
        ),
    )


def some_generated(generator, rows):
    student, teacher = pairs_of_tokens(3, 3)(generator, rows)
    mask = torch.tensor([[True, False, False, True], [False, True, True, True]])
    return student, teacher, mask[torch.arange(rows) % 2]


def generation_reference(generated, teacher, mask, *, mask_ratio=0.5):
    return mimic_reference(generated, teacher, mask=mask) / mask_ratio


def extremes(case):
    student, teacher, mask = case.inputs(seeded(1), 6)
    sides = {
        "equal rows": (student[:1].expand_as(student), teacher[:1].expand_as(teacher)),
        "all zero": (0 * student, 0 * teacher),
        "large": (1e4 * student, 1e4 * teacher),
        "tiny": (1e-20 * student, 1e-20 * teacher),
    }
    return {
        **{label: (*both, mask) for label, both in sides.items()},
        "one sample": case.inputs(seeded(1), 1),
        "one token": (student[:, :1], teacher[:, :1], mask[:, :1]),
        "nothing masked": (student, teacher, torch.zeros_like(mask)),
    }


class TestMaskedGeneration(LossTester):
    case = LossCase(
        function=masked_generation_loss,
        module=MaskedGenerationLoss,
        checks=GENERATION_CHECKS,
        inputs=some_generated,
        reference=generation_reference,
        settings=({}, {"mask_ratio": 0.75}, {"mask_ratio": 1}),
        no_golden="the golden case adds several terms: tested below",
        extremes=extremes,
        bad_arguments=(
            (
                (torch.zeros(4, 3, 2), torch.zeros(4, 3, 5), torch.zeros(4, 3)),
                "got `generated` [4, 3, 2], `teacher_tokens` [4, 3, 5].",
            ),
            (
                (torch.zeros(4, 3, 2), torch.zeros(4, 3, 2), torch.zeros(4, 2)),
                "`mask` must be a tensor of True and False, or of 1 and 0, of shape [4, 3], "
                "got torch.float32 of shape [4, 2].",
            ),
            ((torch.zeros(4, 3, 2), torch.zeros(4, 3, 2), None), "of shape [4, 3], got NoneType."),
        ),
    )

    def test_what_was_not_generated_changes_nothing(self):
        generated, teacher, mask = some_generated(seeded(), 4)
        clean = leaves((generated, teacher, mask))
        value = masked_generation_loss(*clean)
        expected = gradients(value, clean)
        for bad in (math.nan, math.inf, -math.inf):
            filled = leaves((generated.masked_fill(~mask[:, :, None], bad), teacher, mask))
            again = masked_generation_loss(*filled)
            assert torch.equal(again, value)
            for ours, wanted in zip(gradients(again, filled), expected, strict=True):
                assert torch.equal(ours, wanted)
                assert (ours[~mask] == 0).all()

    def test_a_mask_may_be_of_numbers(self):
        generated, teacher, mask = some_generated(seeded(), 4)
        expected = masked_generation_loss(generated, teacher, mask)
        for dtype in (torch.float32, torch.bfloat16, torch.int64):
            assert torch.equal(masked_generation_loss(generated, teacher, mask.to(dtype)), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_golden_of_the_whole_method(dtype):
    stored = {key: value.to(dtype) for key, value in golden.arrays("vitkd_A").items()}
    names = [key for key in stored if key.startswith("param_")] + ["in_low_s", "in_high_s"]
    leaf = dict(zip(names, leaves(tuple(stored[name] for name in names)), strict=True))

    def param(name):
        return leaf[f"param_{name}"]

    mimic = torch.zeros((), dtype=dtype)
    for layer in range(2):
        mapped = F.linear(leaf["in_low_s"][:, layer], param(f"align2.{layer}.weight"), param(f"align2.{layer}.bias"))
        mimic = mimic + token_mimic_loss(mapped, stored["in_low_t"][:, layer])

    mapped = F.linear(leaf["in_high_s"], param("align.weight"), param("align.bias"))
    mask = stored["out_mask"]
    grid = torch.where(mask[:, :, None] == 1, param("mask_token"), mapped).transpose(1, 2).unflatten(2, (4, 4))
    grid = F.conv2d(grid, param("generation.0.weight"), param("generation.0.bias"), padding=1).relu()
    grid = F.conv2d(grid, param("generation.2.weight"), param("generation.2.bias"), padding=1)
    made = masked_generation_loss(grid.flatten(2).transpose(1, 2), stored["in_high_t"], mask)

    rtol = 1e-10 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(mimic, stored["out_mimic_unweighted"], rtol=rtol, atol=0)
    torch.testing.assert_close(made, stored["out_generation_unweighted"], rtol=rtol, atol=0)
    loss = 3e-5 * mimic + 3e-6 * made
    torch.testing.assert_close(loss, stored["loss" if dtype == torch.float64 else "loss_f32"], rtol=rtol, atol=0)
    loss.backward()
    prefix = "grad_" if dtype == torch.float64 else "gradf32_"
    wanted = {f"in_{side}": f"{prefix}{side}" for side in ("low_s", "high_s")}
    if dtype == torch.float64:
        wanted |= {f"param_{key}": f"gradparam_{key}" for key in ("align.weight", "align2.0.weight", "mask_token")}
    for name, key in wanted.items():
        expected = stored[key]
        torch.testing.assert_close(leaf[name].grad, expected, rtol=rtol, atol=rtol * expected.abs().max().item())
