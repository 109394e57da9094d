import math

import torch
import torch.nn.functional as F
from _harness.losses import Golden, LossCase, LossTester, seeded

from congruence.losses import MutualLearningLoss, mutual_learning_loss
from congruence.losses.dml import CHECKS


def logits(generator, rows):
    own = 3 * torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    return own, 3 * torch.randn(rows, 4, generator=generator, dtype=torch.float64)


def reference(own, other):
    losses = []
    for own_row, other_row in zip(own.tolist(), other.tolist(), strict=True):
        p, q = ([math.exp(v) for v in row] for row in (own_row, other_row))
        p, q = ([v / sum(row) for v in row] for row in (p, q))
        losses.append(sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)))
    return torch.tensor(losses, dtype=torch.float64)


class TestMutualLearning(LossTester):
    case = LossCase(
        function=mutual_learning_loss,
        module=MutualLearningLoss,
        checks=CHECKS,
        over_classes=True,
        inputs=logits,
        reference=reference,
        goldens=(Golden("dml_A"),),  # its gradient by the other is that of code which detaches elsewhere
        differentiable=(0,),
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 5)), "must have the same shape, got `logits` [4, 3], `other_logits`"),
            ((torch.zeros(4), torch.zeros(4)), "`logits` must be a non-empty 2-D tensor, got shape [4]."),
            ((torch.zeros(4, 3), [0.0]), "`other_logits` must be a tensor, got list."),
        ),
    )

    def test_the_other_student_is_a_constant(self):
        own, other = (side.requires_grad_() for side in logits(seeded(), 5))
        mutual_learning_loss(own, other).backward()
        assert own.grad.all()
        assert other.grad is None

    def test_equals_torch(self):
        own, other = logits(seeded(), 5)
        expected = F.kl_div(own.log_softmax(1), other.softmax(1), reduction="batchmean")
        torch.testing.assert_close(mutual_learning_loss(own, other), expected)
