import math

import pytest
import torch
from _harness import golden
from _harness.losses import LossCase, gradients, leaves, seeded
from _harness.tokens import TokenLossTester, mean, pairs_of_tokens, real_rows

from congruence.losses import AttentionRelationLoss, attention_relation_loss
from congruence.losses.minilm import CHECKS


def shares(rows, i, head, heads):
    width = len(rows[0]) // heads
    own = [row[head * width : (head + 1) * width] for row in rows]
    scores = [math.fsum(a * b for a, b in zip(own[i], row, strict=True)) / math.sqrt(width) for row in own]
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / math.fsum(powers) for power in powers]


def reference(student, teacher, *, relation_heads, mask=None):
    values = []
    for ours, theirs in zip(real_rows(student, mask), real_rows(teacher, mask), strict=True):
        for head in range(relation_heads):
            for i in range(len(ours)):
                sides = (shares(side, i, head, relation_heads) for side in (ours, theirs))
                values.append(math.fsum(t * math.log(t / s) for s, t in zip(*sides, strict=True)))
    return mean(values)


def extremes(case):
    usual = case.inputs(seeded(1), 6)
    return {
        "equal rows": tuple(side[:1].expand_as(side) for side in usual),
        "equal tokens": tuple(side[:, :1].expand_as(side) for side in usual),
        "all zero": tuple(torch.zeros_like(side) for side in usual),
        "large": tuple(1e4 * side.sign() for side in usual),
        "large and apart": tuple(1e4 * side for side in usual),
        "huge": tuple(1e15 * side for side in usual),
        "tiny": tuple(1e-20 * side for side in usual),
        "subnormal": tuple(1e-41 * side for side in usual),
        "one sample": case.inputs(seeded(1), 1),
        "one token": tuple(side[:, :1] for side in usual),
    }


class TestAttentionRelation(TokenLossTester):
    case = LossCase(
        function=attention_relation_loss,
        module=AttentionRelationLoss,
        checks=CHECKS,
        required={"relation_heads": 2},
        inputs=pairs_of_tokens(4, 6),
        reference=reference,
        settings=({"relation_heads": 2}, {"relation_heads": 1}),
        no_golden="the golden case adds three of these: tested below",
        zero_at_equal=({"relation_heads": 2},),
        extremes=extremes,
        bad_arguments=(
            ((torch.zeros(4, 3, 2), torch.zeros(4, 5, 2)), "got `student` [4, 3, 2], `teacher` [4, 5, 2]."),
            ((torch.zeros(4, 4), torch.zeros(4, 3, 2)), "`student` must be a non-empty 3-D tensor"),
            ((torch.zeros(4, 3, 2), torch.zeros(4, 3, 2).long()), "`teacher` must be a floating-point tensor"),
            (
                (torch.zeros(4, 3, 2), torch.zeros(4, 3, 5)),
                "`relation_heads` must be a divisor of both widths, got 2 for `student` [4, 3, 2], `teacher` [4, 3, 5]",
            ),
        ),
    )

    @pytest.mark.parametrize(
        ("dtype", "loss", "prefix", "rtol"),
        [(torch.float64, "loss", "grad_s_", 1e-9), (torch.float32, "loss_f32", "gradf32_s_", 2e-5)],
    )
    def test_equals_the_golden_of_queries_keys_and_values(self, dtype, loss, prefix, rtol):
        stored = golden.arrays("minilmv2_A")
        total = 0
        for kind in "qkv":
            student, teacher = leaves((stored[f"in_s_{kind}"].to(dtype), stored[f"in_t_{kind}"].to(dtype)))
            value = attention_relation_loss(student, teacher, relation_heads=4)
            torch.testing.assert_close(value, stored[f"out_{kind}"].to(dtype), rtol=max(rtol, 1e-9), atol=0)
            expected = stored[prefix + kind].to(dtype)
            ours = gradients(value, (student,))[0]
            torch.testing.assert_close(ours, expected, rtol=rtol, atol=rtol * expected.abs().max().item())
            total = total + value.detach()
        torch.testing.assert_close(total, stored[loss].to(dtype), rtol=rtol, atol=0)

    def test_one_head_is_torchs_own_attention(self):
        student, teacher = (side[:1] for side in self.case.inputs(seeded(), 1))
        identity = torch.eye(4, dtype=torch.float64)[None]  # as values: what is attended to shows
        rows = [
            torch.nn.functional.scaled_dot_product_attention(side, side, identity).log() for side in (student, teacher)
        ]
        expected = torch.nn.functional.kl_div(*rows, log_target=True, reduction="sum") / 4
        torch.testing.assert_close(attention_relation_loss(student, teacher, relation_heads=1), expected)
