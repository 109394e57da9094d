import pytest
import torch
from _harness.losses import Golden, LossCase, LossTester, leaves, seeded
from _harness.memory import largest_tensor

from congruence.losses import SimilarityPreservingLoss, similarity_preserving_loss
from congruence.losses.sp import CHECKS


def embeddings(generator, rows):
    student = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, 5, generator=generator, dtype=torch.float64)


def reference(student, teacher):
    def similarities(rows):
        gram = [[sum(a * b for a, b in zip(p, q, strict=True)) for q in rows] for p in rows]
        return [[value / sum(v * v for v in row) ** 0.5 for value in row] for row in gram]

    ours, theirs = similarities(student.flatten(1).tolist()), similarities(teacher.flatten(1).tolist())
    total = sum((a - b) ** 2 for p, q in zip(ours, theirs, strict=True) for a, b in zip(p, q, strict=True))
    return torch.tensor(total / len(ours) ** 2, dtype=torch.float64)


class TestSimilarityPreserving(LossTester):
    case = LossCase(
        function=similarity_preserving_loss,
        module=SimilarityPreservingLoss,
        checks=CHECKS,
        inputs=embeddings,
        reference=reference,
        goldens=(Golden("sp_A"), Golden("sp_emb_A")),
        relational=True,
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(5, 3)), "got `student` [4, 3], `teacher` [5, 3]."),
            (
                (torch.zeros(4), torch.zeros(4, 3)),
                "`student` must be a non-empty 2-D or 3-D or 4-D tensor, got shape [4].",
            ),
            ((torch.zeros(4, 3), torch.zeros(4, 3).long()), "`teacher` must be a floating-point tensor"),
        ),
    )

    def test_maps_are_flattened(self):
        student = torch.randn(4, 2, 3, 3, generator=seeded(0), dtype=torch.float64)
        teacher = torch.randn(4, 3, 2, 2, generator=seeded(1), dtype=torch.float64)
        expected = reference(student, teacher)
        torch.testing.assert_close(similarity_preserving_loss(student, teacher), expected)
        tokens = teacher.flatten(2).transpose(1, 2)
        torch.testing.assert_close(similarity_preserving_loss(student, tokens), expected)

    def test_rotation_and_scale_do_not_matter(self):
        student, _ = embeddings(seeded(0), 6)
        rotation = torch.linalg.qr(torch.randn(3, 3, generator=seeded(1)).double()).Q
        assert similarity_preserving_loss(1e3 * student @ rotation, student).abs().item() < 1e-15
        huge = [(1e30 * side).float() for side in embeddings(seeded(0), 6)]
        expected = similarity_preserving_loss(*embeddings(seeded(0), 6)).float()
        torch.testing.assert_close(similarity_preserving_loss(*huge), expected)

    @pytest.mark.parametrize(("rows", "shape"), [(4, (8, 6, 6)), (40, (3,)), (20, (2, 3, 3))])
    def test_nothing_is_larger_than_the_maps_and_the_similarities(self, rows, shape):
        sides = leaves(tuple(torch.randn(rows, *shape, generator=seeded(k)) for k in range(2)))
        largest = largest_tensor(lambda: similarity_preserving_loss(*sides).backward())
        assert largest <= max(sides[0].numel(), rows**2)
