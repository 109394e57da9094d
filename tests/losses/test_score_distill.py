import math

import torch
from _harness import golden
from _harness.losses import Golden, LossCase, LossTester, leaves, seeded
from _harness.memory import largest_tensor

from congruence.losses import ScoreDistillationLoss, score_distillation_loss
from congruence.losses.score_distill import CHECKS


def embeddings(generator, rows):
    student = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, 5, generator=generator, dtype=torch.float64)


def reference(student, teacher, *, temperature=0.02):
    def scores(rows):
        found = []
        for a in rows:
            cosines = [sum(p * q for p, q in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b)) for b in rows]
            weights = [math.exp(c / temperature) for c in cosines]
            found.append([w / sum(weights) for w in weights])
        return found

    ours, theirs = scores(student.tolist()), scores(teacher.tolist())
    total = sum((a - b) ** 2 for p, q in zip(ours, theirs, strict=True) for a, b in zip(p, q, strict=True))
    return torch.tensor(total / len(ours), dtype=torch.float64)


class TestScoreDistillation(LossTester):
    case = LossCase(
        function=score_distillation_loss,
        module=ScoreDistillationLoss,
        checks=CHECKS,
        inputs=embeddings,
        reference=reference,
        settings=({}, {"temperature": 0.5}),
        goldens=(Golden("score_distill_A"),),
        relational=True,
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(5, 3)), "got `student` [4, 3], `teacher` [5, 3]."),
            ((torch.zeros(4), torch.zeros(4, 3)), "got shape [4]."),
            ((torch.zeros(4, 3).bool(), torch.zeros(4, 3)), "`student` must be a floating-point tensor"),
        ),
    )

    def test_queries_and_documents_are_added(self):
        stored = golden.arrays("score_distill_A")
        student, teacher = stored["in_s"].double().requires_grad_(), stored["in_t"].double()
        value = score_distillation_loss(student, teacher) + score_distillation_loss(student, teacher)
        torch.testing.assert_close(value, stored["alt__two_sides_equal__loss"], rtol=1e-10, atol=0)
        value.backward()
        torch.testing.assert_close(student.grad, stored["alt__two_sides_equal__grad_s"], rtol=1e-9, atol=1e-13)

    def test_rotation_and_length_do_not_matter(self):
        student, teacher = embeddings(seeded(), 6)
        rotation = torch.linalg.qr(torch.randn(3, 3, generator=seeded(1)).double()).Q
        lengths = torch.linspace(0.1, 10, 6).double()[:, None]
        moved = score_distillation_loss(lengths * student @ rotation, teacher)
        torch.testing.assert_close(moved, score_distillation_loss(student, teacher))

    def test_a_low_temperature_leaves_only_the_sample_itself(self):
        sides = leaves(tuple(torch.randn(64, 32, generator=seeded(k)) for k in range(2)))
        value = score_distillation_loss(*sides)
        assert 0 <= value.item() < 1e-15
        assert score_distillation_loss(*sides, temperature=1.0).item() > 1e-5

    def test_one_sample_gives_zero_with_zero_gradient(self):
        sides = leaves(embeddings(seeded(), 1))
        value = score_distillation_loss(*sides)
        value.backward()
        assert value.item() == 0
        assert all(side.grad.abs().max() == 0 for side in sides)

    def test_nothing_is_larger_than_the_batch_and_its_similarities(self):
        sides = leaves(tuple(torch.randn(40, 8, generator=seeded(k)) for k in range(2)))
        assert largest_tensor(lambda: score_distillation_loss(*sides).backward()) <= 40**2
