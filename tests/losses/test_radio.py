import math

import pytest
import torch
import torch.nn.functional as F
from _harness import golden
from _harness.losses import Golden, LossCase, gradients, leaves, seeded
from _harness.tokens import TokenLossTester, mean, pairs_of_tokens, real_rows

from congruence.losses import AgglomerativeLoss, agglomerative_loss
from congruence.losses.radio import CHECKS


def cosine(p, q):
    product = math.fsum(a * b for a, b in zip(p, q, strict=True))
    return product / math.sqrt(math.fsum(a * a for a in p) * math.fsum(b * b for b in q))


def smooth_l1(x):
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def reference(student, teacher, *, cosine_weight=0.9, mask=None):
    cosines, values = [], []
    for ours, theirs in zip(real_rows(student, mask), real_rows(teacher, mask), strict=True):
        for s, t in zip(ours, theirs, strict=True):
            cosines.append(1 - cosine(s, t))
            values += [smooth_l1(a - b) for a, b in zip(s, t, strict=True)]
    return cosine_weight * mean(cosines) + (1 - cosine_weight) * mean(values)


class TestAgglomerative(TokenLossTester):
    case = LossCase(
        function=agglomerative_loss,
        module=AgglomerativeLoss,
        checks=CHECKS,
        inputs=pairs_of_tokens(3, 3),
        reference=reference,
        settings=({}, {"cosine_weight": 1}, {"cosine_weight": 0.0}),
        zero_at_equal=({}, {"cosine_weight": 1}),
        goldens=(Golden("radio_A"),),
        bad_arguments=(
            ((torch.zeros(4, 3, 2), torch.zeros(4, 3, 5)), "got `student` [4, 3, 2], `teacher` [4, 3, 5]."),
            ((torch.zeros(4), torch.zeros(4)), "`student` must be a non-empty 2-D or 3-D tensor, got shape [4]."),
            ((torch.zeros(4, 3, 2), torch.zeros(4, 3, 2).long()), "`teacher` must be a floating-point tensor"),
        ),
    )

    def test_equals_the_parts_of_the_golden(self):
        stored = golden.arrays("radio_A")
        sides = stored["in_s"].double(), stored["in_t"].double()
        for weight, key in ((1, "out_cosine"), (0, "out_smooth_l1")):
            value = agglomerative_loss(*sides, cosine_weight=weight)
            torch.testing.assert_close(value, stored[key], rtol=1e-10, atol=0)

    def test_summary_tokens_are_torchs_own_cosine(self):
        student, teacher = (side[:, 0] for side in self.case.inputs(seeded(), 5))
        expected = (1 - F.cosine_similarity(student, teacher)).mean()
        torch.testing.assert_close(agglomerative_loss(student, teacher, cosine_weight=1), expected)
        with pytest.raises(ValueError, match=r"`mask` must be None for summary tokens \[B, D\], got one for `student`"):
            agglomerative_loss(student, teacher, mask=torch.ones(5, 3, dtype=torch.bool))

    def test_a_token_of_zeros(self):
        token, zero = torch.tensor([[[1.0, 2.0]]]), torch.zeros(1, 1, 2)
        for student, teacher, expected in ((token, zero, 1.0), (zero, token, 1.0), (zero, zero, 0.0)):
            sides = leaves((student, teacher))
            value = agglomerative_loss(*sides, cosine_weight=1)
            assert value.item() == pytest.approx(expected)
            assert all(g.abs().max() < 1e-6 for g in gradients(value, sides))

    def test_opposite_tokens_are_two_apart(self):
        student, _ = self.case.inputs(seeded(), 2)
        assert agglomerative_loss(-3 * student, student, cosine_weight=1).item() == pytest.approx(2)
