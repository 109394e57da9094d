import math

import torch
from _harness import golden
from _harness.losses import Golden, LossCase, seeded
from _harness.tokens import TokenLossTester, mean, pairs_of_tokens, real_rows

from congruence.losses import GramLoss, gram_loss
from congruence.losses.gram import CHECKS


def cosine(p, q):
    product = math.fsum(a * b for a, b in zip(p, q, strict=True))
    return product / math.sqrt(math.fsum(a * a for a in p) * math.fsum(b * b for b in q))


def reference(student, teacher, *, mask=None):
    squares = []
    for ours, theirs in zip(real_rows(student, mask), real_rows(teacher, mask), strict=True):
        for i in range(len(ours)):
            squares += [(cosine(ours[i], ours[j]) - cosine(theirs[i], theirs[j])) ** 2 for j in range(len(ours))]
    return mean(squares)


class TestGram(TokenLossTester):
    case = LossCase(
        function=gram_loss,
        module=GramLoss,
        checks=CHECKS,
        inputs=pairs_of_tokens(3, 5),
        reference=reference,
        goldens=(Golden("gram_A"),),
        bad_arguments=(
            (
                (torch.zeros(4, 3, 2), torch.zeros(4, 5, 2)),
                "`student_tokens` and `teacher_tokens` must have the same number of rows and of tokens, "
                "got `student_tokens` [4, 3, 2], `teacher_tokens` [4, 5, 2].",
            ),
            ((torch.zeros(4, 3, 2), torch.zeros(5, 3, 2)), "`teacher_tokens` [5, 3, 2]."),
            ((torch.zeros(4, 3), torch.zeros(4, 3, 2)), "`student_tokens` must be a non-empty 3-D tensor"),
            ((torch.zeros(4, 3, 2), torch.zeros(4, 3, 2).long()), "`teacher_tokens` must be a floating-point tensor"),
        ),
    )

    def test_the_frobenius_form_is_larger_by_the_tokens_squared(self):
        stored = golden.arrays("gram_A")
        value = 9**2 * gram_loss(stored["in_s"].double(), stored["in_t"].double())
        torch.testing.assert_close(value, stored["alt__frobenius__loss"], rtol=1e-10, atol=0)

    def test_rotation_and_lengths_do_not_matter(self):
        student, _ = self.case.inputs(seeded(), 3)
        rotation = torch.linalg.qr(torch.randn(3, 3, generator=seeded(1)).double()).Q
        assert gram_loss(1e3 * student @ rotation, student).item() < 1e-30

    def test_one_token_has_nothing_to_be_alike(self):
        student, teacher = (side[:, :1] for side in self.case.inputs(seeded(), 3))
        assert gram_loss(student, teacher).item() < 1e-30
