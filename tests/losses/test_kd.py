import math

import pytest
import torch
import torch.nn.functional as F
from _harness.losses import Golden, LossCase, LossTester, seeded

from congruence.losses import DistillationLoss, cross_entropy_loss, distillation_loss
from congruence.losses.kd import CHECKS


def logits(generator, rows):
    student = 3 * torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    return student, 3 * torch.randn(rows, 4, generator=generator, dtype=torch.float64)


def reference(student, teacher, *, temperature=4.0):
    losses = []
    for s_row, t_row in zip(student.tolist(), teacher.tolist(), strict=True):
        s, t = ([math.exp(v / temperature) for v in row] for row in (s_row, t_row))
        s, t = ([v / sum(row) for v in row] for row in (s, t))
        losses.append(temperature**2 * sum(p * math.log(p / q) for p, q in zip(t, s, strict=True)))
    return torch.tensor(losses, dtype=torch.float64)


class TestDistillation(LossTester):
    case = LossCase(
        function=distillation_loss,
        module=DistillationLoss,
        checks=CHECKS,
        over_classes=True,
        inputs=logits,
        reference=reference,
        settings=({}, {"temperature": 1}),
        goldens=(Golden("kd_kl_A"), Golden("mlld_kd_loss_A")),
        zero_at_equal=({}, {"temperature": 1.0}, {"temperature": 0.01}),
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 5)), "got `student_logits` [4, 3], `teacher_logits` [4, 5]."),
            ((torch.zeros(4), torch.zeros(4)), "`student_logits` must be a non-empty 2-D tensor, got shape [4]."),
            ((torch.zeros(4, 3), [0.0]), "`teacher_logits` must be a tensor, got list."),
        ),
    )

    @pytest.mark.parametrize("reduction", ["batchmean", "sum"])
    def test_equals_torch_at_temperature_one(self, reduction):
        student, teacher = logits(seeded(), 6)
        expected = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction=reduction)
        ours = distillation_loss(student, teacher, temperature=1.0, reduction=reduction.removeprefix("batch"))
        torch.testing.assert_close(ours, expected)

    def test_certain_teacher_is_cross_entropy(self):
        student, _ = logits(seeded(), 6)
        labels = torch.tensor([0, 1, 2, 3, 0, 1])
        teacher = 1e4 * F.one_hot(labels, 4).double()
        ours = distillation_loss(student, teacher, temperature=1.0)
        torch.testing.assert_close(ours, cross_entropy_loss(student, labels))

    def test_masked_classes_add_nothing(self):
        student, teacher = logits(seeded(), 6)
        expected = distillation_loss(student[:, :3], teacher[:, :3])
        student[:, 3] = teacher[:, 3] = -math.inf
        student.requires_grad_()
        value = distillation_loss(student, teacher)
        value.backward()
        torch.testing.assert_close(value, expected)
        assert torch.isfinite(student.grad).all()

    def test_opposite_certain_logits(self):
        student = torch.tensor([[1e4, -1e4]], requires_grad=True)
        value = distillation_loss(student, -student.detach(), temperature=4.0)
        value.backward()
        assert value.item() == 16 * 5e3
        assert torch.isfinite(student.grad).all()
