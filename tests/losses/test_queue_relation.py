import math

import pytest
import torch
import torch.nn.functional as F
from _harness.losses import Golden, LossCase, LossTester, leaves, seeded

from congruence.losses import QueueRelationLoss, queue_relation_loss
from congruence.losses.queue_relation import CHECKS


def embeddings(generator, rows):
    sides = [torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (rows, rows, 7)]
    return tuple(sides)


def reference(student, teacher, queue, *, student_temperature=0.1, teacher_temperature=0.1):
    def shares(row, temperature):
        weights = []
        for other in queue.tolist():
            dot = sum(a * b for a, b in zip(row, other, strict=True))
            weights.append(math.exp(dot / (math.hypot(*row) * math.hypot(*other)) / temperature))
        return [w / sum(weights) for w in weights]

    losses = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        pairs = zip(shares(s, student_temperature), shares(t, teacher_temperature), strict=True)
        losses.append(sum(q * math.log(q / p) for p, q in pairs))
    return torch.tensor(losses, dtype=torch.float64)


class TestQueueRelation(LossTester):
    case = LossCase(
        function=queue_relation_loss,
        module=QueueRelationLoss,
        checks=CHECKS,
        inputs=embeddings,
        reference=reference,
        settings=({}, {"student_temperature": 0.2, "teacher_temperature": 0.05}),
        goldens=(Golden("queue_relation_A", inputs=("in_s", "in_t", "in_queue")),),
        differentiable=(0, 1),
        bad_arguments=(
            (
                (torch.zeros(4, 3), torch.zeros(5, 3), torch.zeros(7, 3)),
                "must have the same shape, got `student` [4, 3], `teacher` [5, 3].",
            ),
            ((torch.zeros(4, 3), torch.zeros(4, 2), torch.zeros(7, 3)), "got `student` [4, 3], `teacher` [4, 2]."),
            (
                (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(7, 2)),
                "must have the same width, got `student` [4, 3], `queue` [7, 2].",
            ),
            (
                (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(0, 3)),
                "`queue` must be a non-empty 2-D tensor, got shape [0, 3].",
            ),
            (
                (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(7, 3).long()),
                "`queue` must be a floating-point tensor",
            ),
            ((torch.zeros(4, 3), torch.zeros(4, 3), None), "`queue` must be a tensor, got NoneType."),
        ),
    )

    def test_equals_torch(self):
        student, teacher, queue = embeddings(seeded(), 6)
        logs = [(F.normalize(x) @ F.normalize(queue).T / 0.1).log_softmax(1) for x in (student, teacher)]
        expected = F.kl_div(*logs, reduction="batchmean", log_target=True)
        torch.testing.assert_close(queue_relation_loss(student, teacher, queue), expected)

    def test_the_queue_is_constant_and_may_have_another_dtype(self):
        arguments = leaves(embeddings(seeded(), 6))
        queue_relation_loss(*arguments).backward()
        assert arguments[2].grad is None
        for dtype in (torch.float32, torch.bfloat16):
            stored = arguments[2].detach().to(dtype)
            value = queue_relation_loss(*arguments[:2], stored)
            torch.testing.assert_close(value, queue_relation_loss(*arguments[:2], stored.double()), rtol=1e-6, atol=0)

    def test_order_and_length_in_the_queue_do_not_matter(self):
        student, teacher, queue = embeddings(seeded(), 6)
        moved = queue.flip(0) * torch.linspace(0.1, 9, 7).double()[:, None]
        expected = queue_relation_loss(student, teacher, queue)
        torch.testing.assert_close(queue_relation_loss(student, 1e5 * teacher, moved), expected)

    def test_a_queue_of_one_row_says_nothing(self):
        arguments = leaves(embeddings(seeded(), 6))
        value = queue_relation_loss(*arguments[:2], arguments[2][:1])
        value.backward()
        assert value.item() == 0
        assert arguments[0].grad.abs().max() == 0

    @pytest.mark.parametrize("temperature", [1e-3, 1e-4])
    def test_a_low_temperature_stays_finite(self, temperature):
        arguments = leaves(tuple(x.float() for x in embeddings(seeded(), 6)))
        settings = {"student_temperature": temperature, "teacher_temperature": temperature}
        value = queue_relation_loss(*arguments, **settings)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(arguments[0].grad).all()
