import math

import pytest
import torch
import torch.nn.functional as F
from _harness.losses import LossCase, LossTester, seeded, usual_extremes

from congruence.losses import BinaryCrossEntropyLoss, binary_cross_entropy_loss
from congruence.losses.bce import CHECKS


def logits_and_labels(generator, rows):
    logits = 3 * torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 2, (rows, 4), generator=generator)


def reference(logits, labels, *, positive_weight=1.0):
    losses = []
    for row, wanted in zip(logits.tolist(), labels.tolist(), strict=True):
        values = []
        for z, y in zip(row, wanted, strict=True):
            if y >= 0:
                p = 1 / (1 + math.exp(-z))
                values.append(-positive_weight * y * math.log(p) - (1 - y) * math.log(1 - p))
        losses.append(sum(values) / max(len(values), 1))
    return torch.tensor(losses, dtype=torch.float64)


def extremes(case):
    """The usual ones, of which a single column has a single column of labels."""
    return {label: (logits, labels[:, : logits.shape[1]]) for label, (logits, labels) in usual_extremes(case).items()}


class TestBinaryCrossEntropy(LossTester):
    case = LossCase(
        function=binary_cross_entropy_loss,
        module=BinaryCrossEntropyLoss,
        checks=CHECKS,
        inputs=logits_and_labels,
        reference=reference,
        settings=({}, {"positive_weight": 2.5}),
        extremes=extremes,
        no_golden="torch's own binary cross entropy is the reference",
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 2)), "got `student_logits` [4, 3], `labels` [4, 2]."),
            ((torch.zeros(2, 3), torch.tensor([0, 3])), "`labels` must be class labels in [0, 3)"),
            ((torch.zeros(2, 3), [0, 1]), "`labels` must be a tensor, got list."),
            ((torch.zeros(2, 3, 1), torch.zeros(2, 3)), "got shape [2, 3, 1]."),
        ),
    )

    def test_equals_the_slow_reference(self):
        for settings in self.case.settings:
            logits, labels = logits_and_labels(seeded(2), 5)
            labels[[0, 3], 1] = -1
            labels[4] = -1
            rows = binary_cross_entropy_loss(logits, labels, **settings, reduction="none")
            torch.testing.assert_close(rows, reference(logits, labels, **settings), rtol=1e-10, atol=1e-13)
            known = (labels >= 0).sum(1)
            total = (rows * known).sum()
            mean = binary_cross_entropy_loss(logits, labels, **settings)
            torch.testing.assert_close(mean, total / known.sum(), rtol=1e-10, atol=1e-13)
            summed = binary_cross_entropy_loss(logits, labels, **settings, reduction="sum")
            torch.testing.assert_close(summed, total, rtol=1e-10, atol=1e-13)

    def test_a_single_class_is_refused(self):
        # Not here: one logit is one label.
        logits, labels = logits_and_labels(seeded(), 5)
        expected = F.binary_cross_entropy_with_logits(logits[:, 0], labels[:, 0].double())
        for given in (labels[:, :1], labels[:, 0]):
            torch.testing.assert_close(binary_cross_entropy_loss(logits[:, :1], given), expected)

    def test_student_equal_to_the_teacher(self):
        # No teacher here; what must be 0 is a certain and right student.
        value = binary_cross_entropy_loss(torch.tensor([[1e4, -1e4]]), torch.tensor([[1, 0]]))
        assert value.item() == 0.0

    @pytest.mark.parametrize("weight", [1.0, 3.0])
    def test_equals_torch_where_all_are_known(self, weight):
        logits, labels = logits_and_labels(seeded(), 7)
        ours = binary_cross_entropy_loss(logits, labels, positive_weight=weight)
        weights = torch.full((4,), weight, dtype=torch.float64)
        torch.testing.assert_close(
            ours, F.binary_cross_entropy_with_logits(logits, labels.double(), pos_weight=weights)
        )

    def test_classes_are_one_hot_labels(self):
        logits, _ = logits_and_labels(seeded(), 5)
        classes = torch.tensor([0, 3, -1, 2, 2])
        hot = F.one_hot(classes.clamp(min=0), 4)
        hot[2] = -1
        assert torch.equal(binary_cross_entropy_loss(logits, classes), binary_cross_entropy_loss(logits, hot))

    def test_no_known_label_gives_zero_and_zero_gradient(self):
        logits = torch.randn(3, 4, generator=seeded()).requires_grad_()
        value = binary_cross_entropy_loss(logits, torch.full((3, 4), -1))
        value.backward()
        assert value.item() == 0.0
        assert (logits.grad == 0).all()
