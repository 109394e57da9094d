import math

import torch
from _harness.losses import Golden, LossCase, LossTester, gradients, leaves, seeded

from congruence.losses import TransformedTeacherLoss, distillation_loss, transformed_teacher_loss
from congruence.losses.ttm import CHECKS


def logits(generator, rows):
    return tuple(3 * torch.randn(rows, 4, generator=generator, dtype=torch.float64) for _ in range(2))


def shares(row):
    powers = [math.exp(v) for v in row]
    return [v / sum(powers) for v in powers]


def reference(student, teacher, *, exponent=0.1, weighted=False):
    values = []
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = shares(ours), [v**exponent for v in shares(theirs)]
        total = sum(p)
        value = sum(a / total * math.log(a / total / b) for a, b in zip(p, q, strict=True))
        values.append((total if weighted else 1) * value)
    return torch.tensor(values, dtype=torch.float64)


class TestTransformedTeacher(LossTester):
    case = LossCase(
        function=transformed_teacher_loss,
        module=TransformedTeacherLoss,
        checks=CHECKS,
        over_classes=True,
        inputs=logits,
        reference=reference,
        settings=({}, {"exponent": 0.2, "weighted": True}, {"exponent": 1}, {"exponent": 2.0, "weighted": True}),
        goldens=(Golden("ttm_A"), Golden("wttm_A", {"exponent": 0.2, "weighted": True})),
        zero_at_equal=({"exponent": 1}, {"exponent": 1.0, "weighted": True}),
        differentiable=(0,),  # the weight is a constant of the teacher
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 5)), "got `student_logits` [4, 3], `teacher_logits` [4, 5]."),
            ((torch.zeros(4), torch.zeros(4)), "`student_logits` must be a non-empty 2-D tensor, got shape [4]."),
            ((torch.zeros(4, 3), torch.zeros(4, 3).long()), "`teacher_logits` must be a floating-point tensor"),
        ),
    )

    def test_it_is_kd_whose_temperature_only_the_teacher_has(self):
        student, teacher = logits(seeded(), 5)
        expected = distillation_loss(student / 0.25, teacher, temperature=4.0) / 16
        torch.testing.assert_close(transformed_teacher_loss(student, teacher, exponent=0.25), expected)

    def test_the_weight_is_a_constant_and_bounded(self):
        sides = leaves(logits(seeded(), 5))
        plain, weighted = (
            transformed_teacher_loss(*sides, exponent=0.5, weighted=w, reduction="none") for w in (False, True)
        )
        share = (weighted / plain).detach()
        assert ((share > 1) & (share < 4**0.5)).all()
        ours, plainly = gradients(weighted, sides), gradients((share * plain).sum(), sides)
        torch.testing.assert_close(ours, plainly)
        sure = torch.tensor([[1e4, 0.0, 0.0, 0.0], [0.0] * 4])
        student = torch.randn(2, 4, generator=seeded())
        values = [
            transformed_teacher_loss(student, sure, exponent=0.5, weighted=w, reduction="none") for w in (False, True)
        ]
        torch.testing.assert_close(values[1] / values[0], torch.tensor([1.0, 2.0]))

    def test_masked_classes_are_finite(self):
        masked = torch.tensor([[0.0, 1.0, -torch.inf]])
        student = torch.tensor([[1.0, 0.0, -torch.inf]], requires_grad=True)
        value = transformed_teacher_loss(student, masked, weighted=True)
        assert torch.isfinite(value)
        assert torch.isfinite(gradients(value, (student,))[0]).all()

    def test_a_power_beyond_the_range_is_that_of_a_sure_teacher(self):
        far, sure = torch.tensor([[3e38, 2e38, 0.0]]), torch.tensor([[1e4, 0.0, 0.0]])
        student = torch.randn(1, 3, generator=seeded())
        settings = {"exponent": 2.0, "weighted": True}
        expected = transformed_teacher_loss(student, sure, **settings)
        torch.testing.assert_close(transformed_teacher_loss(student, far, **settings), expected)
