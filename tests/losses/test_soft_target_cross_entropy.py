import math

import pytest
import torch
from _harness.losses import LossCase, LossTester, gradients, leaves, seeded

from congruence.losses import (
    SoftTargetCrossEntropy,
    cross_entropy_loss,
    distillation_loss,
    soft_target_cross_entropy,
)
from congruence.losses.soft_target_cross_entropy import CHECKS

CLASSES = 4


def batch(generator, rows):
    student, teacher = (torch.randn(rows, CLASSES, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.arange(rows) % CLASSES
    labels[2::4] = -1
    return student, teacher, labels


def reference(student, teacher, labels, *, alpha=0.1):
    def softmax(row):
        values = [math.exp(v) for v in row]
        return [v / sum(values) for v in values]

    rows = []
    for row, other, label in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        ours, soft = softmax(row), softmax(other)
        hard = [1.0 if c == label else 0.0 for c in range(CLASSES)]
        mixed = soft if label < 0 else [alpha * h + (1 - alpha) * s for h, s in zip(hard, soft, strict=True)]
        rows.append(-sum(q * math.log(p) for q, p in zip(mixed, ours, strict=True)))
    return torch.tensor(rows, dtype=torch.float64)


def narrow(case):
    """The usual extremes, with logits of ±1e4."""
    student, teacher, labels = case.inputs(seeded(1), 6)
    return {
        "one sample": case.inputs(seeded(1), 1),
        "large": (1e4 * student.sign(), 1e4 * teacher.sign(), labels),
        "equal": (torch.zeros_like(student), torch.zeros_like(teacher), labels),
    }


class TestSoftTargetCrossEntropy(LossTester):
    case = LossCase(
        function=soft_target_cross_entropy,
        module=SoftTargetCrossEntropy,
        checks=CHECKS,
        over_classes=True,
        inputs=batch,
        reference=reference,
        settings=({}, {"alpha": 0.0}, {"alpha": 1.0}),
        no_golden="the definition alone; it is tested to be a sum of two losses with goldens",
        extremes=narrow,
        bad_arguments=(
            (
                (torch.zeros(4, 3), torch.zeros(4, 2), torch.zeros(4).long()),
                "got `student_logits` [4, 3], `teacher_logits` [4, 2].",
            ),
            (
                (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(3).long()),
                "got `student_logits` [4, 3], `labels` [3].",
            ),
            ((torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 3])), "in [0, 3) or negative"),
        ),
    )

    def test_student_equal_to_the_teacher(self):
        """The least value is the entropy of the soft labels; there the gradient is 0."""
        student, _, labels = leaves(batch(seeded(3), 6))
        value = soft_target_cross_entropy(student, student.detach(), labels, alpha=0.0)
        entropy = torch.distributions.Categorical(logits=student).entropy().mean()
        assert value.item() == pytest.approx(entropy.item(), rel=1e-12)
        assert gradients(value, (student,))[0].abs().max() < 1e-15

    def test_is_cross_entropy_and_distillation_at_temperature_one(self):
        student, teacher, labels = leaves(batch(seeded(4), 6))
        labels = labels.clamp(min=0)
        ours = soft_target_cross_entropy(student, teacher, labels)
        sides = 0.1 * cross_entropy_loss(student, labels)
        sides = sides + 0.9 * distillation_loss(student, teacher, temperature=1.0)
        torch.testing.assert_close(gradients(ours, (student,)), gradients(sides, (student,)), rtol=1e-12, atol=1e-15)
        entropy = torch.distributions.Categorical(logits=teacher).entropy().mean()
        assert ours.item() == pytest.approx(sides.item() + 0.9 * entropy.item(), rel=1e-12)

    def test_is_torchs_own_with_soft_targets(self):
        student, teacher, labels = batch(seeded(5), 6)
        labels = labels.clamp(min=0)
        mixed = 0.3 * torch.nn.functional.one_hot(labels, CLASSES) + 0.7 * teacher.softmax(1)
        expected = torch.nn.functional.cross_entropy(student, mixed)
        assert soft_target_cross_entropy(student, teacher, labels, alpha=0.3).item() == pytest.approx(expected.item())
