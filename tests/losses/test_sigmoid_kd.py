import math

import torch
from _harness.losses import LossCase, LossTester, seeded

from congruence.losses import BinaryDistillationLoss, binary_distillation_loss
from congruence.losses.sigmoid_kd import CHECKS


def logits(generator, rows):
    student = 3 * torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    return student, 3 * torch.randn(rows, 4, generator=generator, dtype=torch.float64)


def reference(student, teacher, *, temperature=1.0):
    losses = []
    for s_row, t_row in zip(student.tolist(), teacher.tolist(), strict=True):
        total = 0.0
        for s, t in zip(s_row, t_row, strict=True):
            q, p = (1 / (1 + math.exp(-v / temperature)) for v in (s, t))
            total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        losses.append(temperature**2 * total / len(s_row))
    return torch.tensor(losses, dtype=torch.float64)


class TestBinaryDistillation(LossTester):
    case = LossCase(
        function=binary_distillation_loss,
        module=BinaryDistillationLoss,
        checks=CHECKS,
        inputs=logits,
        reference=reference,
        settings=({}, {"temperature": 3}),
        no_golden="the authors' code clamps the probabilities and sums over the labels",
        zero_at_equal=({}, {"temperature": 0.1}),
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 5)), "got `student_logits` [4, 3], `teacher_logits` [4, 5]."),
            ((torch.zeros(4), torch.zeros(4)), "`student_logits` must be a non-empty 2-D tensor, got shape [4]."),
        ),
    )

    def test_a_single_class_is_refused(self):
        # Not here: one logit is one label, whose sigmoid says something.
        student, teacher = logits(seeded(), 5)
        narrow = binary_distillation_loss(student[:, :1], teacher[:, :1])
        torch.testing.assert_close(narrow, reference(student[:, :1], teacher[:, :1]).mean())

    def test_it_is_the_softmax_of_two_logits(self):
        from congruence.losses import distillation_loss

        student, teacher = (each[:, :1] for each in logits(seeded(), 6))
        pairs = [torch.cat([torch.zeros_like(each), each], 1) for each in (student, teacher)]
        for temperature in (1.0, 4.0):
            ours = binary_distillation_loss(student, teacher, temperature=temperature)
            torch.testing.assert_close(ours, distillation_loss(*pairs, temperature=temperature))

    def test_certain_and_opposite_logits(self):
        student = torch.tensor([[1e4, -1e4]], requires_grad=True)
        value = binary_distillation_loss(student, -student.detach())
        value.backward()
        assert value.item() == 1e4
        assert torch.isfinite(student.grad).all()
