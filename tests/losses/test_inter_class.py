import math

import pytest
import torch
from _harness.losses import LossCase, LossTester, gradients, leaves, seeded

from congruence.losses import InterClassContrastiveLoss, inter_class_contrastive_loss, intra_class_contrastive_loss
from congruence.losses.inter_class import CHECKS
from congruence.metrics import intra_inter_ratio


def batch(generator, rows):
    """Embeddings of two views, and labels."""
    anchor, positive = (torch.randn(rows, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    return anchor, positive, torch.arange(rows) % 3


def reference(anchor, positive, labels, *, temperature=1.0, normalize=True):
    def unit(row):
        length = math.sqrt(sum(v * v for v in row))
        return [v / length for v in row] if normalize else row

    def dot(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / temperature

    anchor, positive = ([unit(row) for row in rows.tolist()] for rows in (anchor, positive))
    total = 0.0
    for i, label in enumerate(labels.tolist()):
        if label < 0:
            continue
        drawn = math.exp(dot(anchor[i], positive[i]))
        others = [j for j, other in enumerate(labels.tolist()) if other >= 0 and other != label]
        pushed = sum(math.exp(dot(anchor[i], anchor[j])) for j in others)
        total += -math.log(drawn / (drawn + pushed))
    return torch.tensor(total / len(anchor), dtype=torch.float64)


class TestInterClass(LossTester):
    case = LossCase(
        function=inter_class_contrastive_loss,
        module=InterClassContrastiveLoss,
        checks=CHECKS,
        inputs=batch,
        reference=reference,
        settings=({}, {"temperature": 0.3}, {"normalize": False, "temperature": 2.0}),
        differentiable=(0, 1),
        no_golden="the paper has it in its theory alone; `intra_inter_ratio` computes it another way",
        bad_arguments=(
            (
                (torch.zeros(4, 3), torch.zeros(4, 2), torch.zeros(4).long()),
                "got `anchor` [4, 3], `positive` [4, 2].",
            ),
            (
                (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(3).long()),
                "got `anchor` [4, 3], `labels` [3].",
            ),
            (
                (torch.zeros(4), torch.zeros(4), torch.zeros(4).long()),
                "`anchor` must be a non-empty 2-D tensor, got shape [4].",
            ),
        ),
    )

    def test_student_equal_to_the_teacher(self):
        """There is no teacher; what gives 0 is one class alone, or no label."""
        anchor, positive, _ = leaves(batch(seeded(3), 3))
        for labels in (torch.zeros(3).long(), torch.full((3,), -1)):
            value = inter_class_contrastive_loss(anchor, positive, labels)
            assert value.item() == 0.0
            assert all(not g.any() for g in gradients(value, (anchor, positive)))


def test_rows_without_a_label_neither_pull_nor_push():
    anchor, positive, labels = batch(seeded(5), 9)
    labels[1::3] = -1
    found = inter_class_contrastive_loss(anchor, positive, labels)
    torch.testing.assert_close(found, reference(anchor, positive, labels))


def test_theorem_1_joins_it_with_the_intra_class_contrast():
    """The two losses are those of which `intra_inter_ratio` has both sides of the theorem."""
    generator = seeded(5)
    rows = torch.randn(8, 4, generator=generator, dtype=torch.float64)
    labels = torch.arange(8) % 2
    found = intra_inter_ratio(rows, labels)
    inter = inter_class_contrastive_loss(rows, rows, labels)
    sure = torch.nn.functional.one_hot(labels, 2).double() * 9
    intra = intra_class_contrastive_loss(rows, rows, sure, labels, margin_threshold=0.0)
    assert inter.item() == pytest.approx(found.inter_loss)
    assert intra.item() == pytest.approx(found.intra_loss)


def test_minimising_it_pulls_classes_apart():
    rows = torch.nn.functional.normalize(torch.randn(12, 3, generator=seeded(1)), dim=1).requires_grad_()
    labels = torch.arange(12) % 3
    optimizer = torch.optim.Adam([rows], lr=0.05)
    before = intra_inter_ratio(rows.detach(), labels).similarities
    for _ in range(60):
        optimizer.zero_grad()
        inter_class_contrastive_loss(rows, rows, labels, temperature=0.3).backward()
        optimizer.step()
    assert intra_inter_ratio(rows.detach(), labels).similarities > 1.5 * before
