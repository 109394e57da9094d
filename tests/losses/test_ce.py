import math

import pytest
import torch
import torch.nn.functional as F
from _harness.losses import LossCase, LossTester, seeded, tensors

from congruence.losses import CrossEntropyLoss, cross_entropy_loss
from congruence.losses.ce import CHECKS


def logits_and_labels(generator, rows):
    logits = 3 * torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 4, (rows,), generator=generator)


def reference(logits, labels):
    losses = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        losses.append(math.log(sum(math.exp(v) for v in row)) - row[label])
    return torch.tensor(losses, dtype=torch.float64)


class TestCrossEntropy(LossTester):
    case = LossCase(
        function=cross_entropy_loss,
        module=CrossEntropyLoss,
        checks=CHECKS,
        over_classes=True,
        inputs=logits_and_labels,
        reference=reference,
        no_golden="torch's own cross entropy is the reference",
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(5).long()), "got `student_logits` [4, 3], `labels` [5]."),
            ((torch.zeros(2, 3), torch.tensor([0, 3])), "`labels` must be class labels in [0, 3)"),
            ((torch.zeros(2, 3), torch.zeros(2)), "`labels` must be a 1-D integer tensor of class labels"),
            ((torch.zeros(2, 3, 1), torch.zeros(2).long()), "got shape [2, 3, 1]."),
            ((torch.zeros(2, 3).long(), torch.zeros(2).long()), "must be a floating-point tensor"),
        ),
    )

    def test_student_equal_to_the_teacher(self):
        # No teacher here; what must be 0 is a certain and right student.
        value = cross_entropy_loss(torch.tensor([[1e4, -1e4], [-1e4, 1e4]]), torch.tensor([0, 1]))
        assert value.item() == 0.0

    @pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
    def test_equals_torch_where_all_are_labelled(self, reduction):
        logits, labels = logits_and_labels(seeded(), 7)
        ours = cross_entropy_loss(logits, labels.to(torch.uint8), reduction=reduction)
        torch.testing.assert_close(ours, F.cross_entropy(logits, labels, reduction=reduction), rtol=0, atol=0)

    def test_unlabelled_rows_are_left_out(self):
        logits, labels = logits_and_labels(seeded(), 6)
        labels[[1, 4]] = torch.tensor([-1, -7])
        logits.requires_grad_()
        labelled = labels >= 0
        ours = cross_entropy_loss(logits, labels)
        torch.testing.assert_close(ours, F.cross_entropy(logits[labelled], labels[labelled]))
        ours.backward()
        assert (logits.grad[~labelled] == 0).all()
        assert (logits.grad[labelled] != 0).all()
        rows = cross_entropy_loss(logits, labels, reduction="none")
        assert rows.shape == (6,)
        assert (rows[~labelled] == 0).all()

    def test_no_label_at_all_gives_zero_and_zero_gradient(self):
        logits = torch.randn(3, 4, generator=seeded()).requires_grad_()
        value = cross_entropy_loss(logits, torch.full((3,), -1))
        value.backward()
        assert value.item() == 0.0
        assert all((t.grad == 0).all() for t in tensors(logits))
