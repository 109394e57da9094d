import math

import torch
from _harness import golden
from _harness.losses import Golden, LossCase, gradients, leaves, seeded
from _harness.tokens import TokenLossTester, mean, pairs_of_tokens, real_rows

from congruence.losses import PatchRelationLoss, patch_relation_loss
from congruence.losses.patch_relation import CHECKS


def cosine(p, q):
    product = math.fsum(a * b for a, b in zip(p, q, strict=True))
    return product / math.sqrt(math.fsum(a * a for a in p) * math.fsum(b * b for b in q))


def shares(rows, i, temperature, diagonal):
    powers = [math.exp(cosine(rows[i], row) / temperature) for j, row in enumerate(rows) if diagonal or j != i]
    return [power / math.fsum(powers) for power in powers]


def reference(student, teacher, *, temperature=0.1, diagonal=True, mask=None):
    values = []
    for ours, theirs in zip(real_rows(student, mask), real_rows(teacher, mask), strict=True):
        for i in range(len(ours)):
            if diagonal or len(ours) > 1:
                sides = (shares(side, i, temperature, diagonal) for side in (ours, theirs))
                values.append(math.fsum(t * math.log(t / s) for s, t in zip(*sides, strict=True)))
    return mean(values)


class TestPatchRelation(TokenLossTester):
    case = LossCase(
        function=patch_relation_loss,
        module=PatchRelationLoss,
        checks=CHECKS,
        inputs=pairs_of_tokens(3, 5),
        reference=reference,
        settings=({}, {"temperature": 1.0}, {"temperature": 0.5, "diagonal": False}),
        goldens=(Golden("patch_relation_A"),),
        bad_arguments=(
            ((torch.zeros(4, 3, 2), torch.zeros(4, 5, 2)), "`student_tokens` [4, 3, 2], `teacher_tokens` [4, 5, 2]."),
            ((torch.zeros(4, 3), torch.zeros(4, 3, 2)), "`student_tokens` must be a non-empty 3-D tensor"),
            ((torch.zeros(4, 3, 2), torch.zeros(4, 3, 2).long()), "`teacher_tokens` must be a floating-point tensor"),
        ),
    )

    def test_equals_the_golden_without_the_diagonal(self):
        stored = golden.arrays("patch_relation_A")
        student, teacher = leaves((stored["in_s"].double(), stored["in_t"].double()))
        value = patch_relation_loss(student, teacher, diagonal=False)
        torch.testing.assert_close(value, stored["alt__without_diagonal__loss"], rtol=1e-10, atol=0)
        expected = stored["alt__without_diagonal__grad_s"]
        torch.testing.assert_close(gradients(value, (student,))[0], expected, rtol=1e-10, atol=1e-12)

    def test_a_token_without_another_is_left_out(self):
        student, teacher = leaves(tuple(side[:, :1] for side in self.case.inputs(seeded(), 3)))
        for settings in ({}, {"diagonal": False}):
            value = patch_relation_loss(student, teacher, **settings)
            assert value.item() == 0
            assert all((g == 0).all() for g in gradients(value, (student, teacher)))

    def test_a_low_temperature_stays_finite(self):
        sides = leaves(self.case.inputs(seeded(), 3))
        value = patch_relation_loss(*sides, temperature=1e-5, diagonal=False)
        assert torch.isfinite(value)
        assert all(torch.isfinite(g).all() for g in gradients(value, sides))
