import math

import torch
from _harness.losses import Golden, LossCase, LossTester, seeded

from congruence.losses import (
    BatchCorrelationLoss,
    ClassCorrelationLoss,
    batch_correlation_loss,
    class_correlation_loss,
)
from congruence.losses.mlld import CHECKS, batch_correlation_rows, class_correlation_rows

BAD = (
    ((torch.zeros(4, 3), torch.zeros(4, 5)), "got `student_logits` [4, 3], `teacher_logits` [4, 5]."),
    ((torch.zeros(4), torch.zeros(4)), "`student_logits` must be a non-empty 2-D tensor, got shape [4]."),
    ((torch.zeros(4, 3), torch.zeros(4, 3).long()), "`teacher_logits` must be a floating-point tensor"),
)
T1, T4 = {"temperature": 1}, {"temperature": 4.0}


def logits(generator, rows):
    student = 3 * torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    return student, 3 * torch.randn(rows, 4, generator=generator, dtype=torch.float64)


def softened(side, temperature):
    powers = [[math.exp(v / temperature) for v in row] for row in side.tolist()]
    return [[v / sum(row) for v in row] for row in powers]


def apart(student, teacher):
    """The mean over the rows of the squared difference of two Gram matrices, of lists of vectors."""
    total = 0.0
    for i in range(len(student)):
        for j in range(len(student)):
            ours = sum(a * b for a, b in zip(student[i], student[j], strict=True))
            theirs = sum(a * b for a, b in zip(teacher[i], teacher[j], strict=True))
            total += (theirs - ours) ** 2
    return torch.tensor(total / len(student), dtype=torch.float64)


def by_sample(student, teacher, *, temperature):
    return apart(softened(student, temperature), softened(teacher, temperature))


def by_class(student, teacher, *, temperature):
    columns = [list(zip(*softened(side, temperature), strict=True)) for side in (student, teacher)]
    return apart(*columns)


class TestClassCorrelation(LossTester):
    case = LossCase(
        function=class_correlation_loss,
        module=ClassCorrelationLoss,
        checks=CHECKS,
        over_classes=True,
        inputs=logits,
        reference=by_class,
        settings=(T4, T1),
        required=T4,
        goldens=(Golden("mlld_cc_loss_A", T4),),
        zero_at_equal=(T4, T1),
        bad_arguments=BAD,
    )

    def test_which_sample_is_which_does_not_matter(self):
        student, _ = logits(seeded(), 6)
        assert class_correlation_loss(student.flip(0), student, temperature=2.0).item() < 1e-30

    def test_it_is_the_mean_of_its_rows(self):
        student, teacher = logits(seeded(), 6)
        rows = class_correlation_rows((student / 2).softmax(1), (teacher / 2).softmax(1))
        assert rows.shape == (4,)
        torch.testing.assert_close(rows.mean(), by_class(student, teacher, temperature=2.0))


class TestBatchCorrelation(LossTester):
    case = LossCase(
        function=batch_correlation_loss,
        module=BatchCorrelationLoss,
        checks=CHECKS,
        over_classes=True,
        inputs=logits,
        reference=by_sample,
        settings=(T4, T1),
        required=T4,
        goldens=(Golden("mlld_bc_loss_A", T4),),
        zero_at_equal=(T4, T1),
        bad_arguments=BAD,
    )

    def test_which_class_is_which_does_not_matter(self):
        student, _ = logits(seeded(), 6)
        assert batch_correlation_loss(student.flip(1), student, temperature=2.0).item() < 1e-30

    def test_it_is_the_mean_of_its_rows(self):
        student, teacher = logits(seeded(), 6)
        rows = batch_correlation_rows((student / 2).softmax(1), (teacher / 2).softmax(1))
        assert rows.shape == (6,)
        torch.testing.assert_close(rows.mean(), by_sample(student, teacher, temperature=2.0))
