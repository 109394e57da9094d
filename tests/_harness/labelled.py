"""What every loss of logits with labels must do beyond `LossTester`: rows without a label count for nothing."""

from __future__ import annotations

import torch
from _harness.losses import LossTester, gradients, leaves, seeded

BAD_LABELS = (
    ((torch.zeros(4, 3), torch.zeros(4, 5), torch.zeros(4).long()), "`teacher_logits` [4, 5]."),
    ((torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(3).long()), "`labels` [3]."),
    ((torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 3])), "class labels in [0, 3)"),
    ((torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2)), "must be a 1-D integer tensor of class labels"),
    ((torch.zeros(4), torch.zeros(4), torch.zeros(4).long()), "got shape [4]."),
)


def logits_and_labels(generator, rows, classes=4):
    student = 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    teacher = 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    return student, teacher, torch.randint(0, classes, (rows,), generator=generator)


class LabelledLossTester(LossTester):
    """Abstract: `case.inputs` gives logits of both sides, first, and labels, last."""

    def test_unlabelled_rows_are_left_out_whatever_they_hold(self):
        for settings in self.case.settings:
            *sides, labels = self.case.inputs(seeded(30), 6)
            labels[[1, 4]] = torch.tensor([-1, -7])
            labelled = labels >= 0
            expected = self.case.function(*(x[labelled] for x in sides), labels[labelled], **settings)
            for bad in (torch.nan, torch.inf, 0.0):
                held = leaves(tuple(x.clone().index_fill_(0, torch.tensor([1, 4]), bad) for x in sides))
                value = self.case.function(*held, labels, **settings)
                torch.testing.assert_close(value, expected)
                for gradient in gradients(value, held):
                    assert torch.isfinite(gradient).all()
                    assert not gradient[~labelled].any()
                if "reduction" in self.case.checks:
                    assert not self.case.function(*held, labels, reduction="none", **settings)[~labelled].any()

    def test_no_label_at_all_gives_zero_and_zero_gradient(self):
        for settings in self.case.settings:
            *sides, labels = self.case.inputs(seeded(31), 3)
            held = leaves(tuple(sides))
            value = self.case.function(*held, torch.full_like(labels, -1), **settings)
            assert value.item() == 0.0
            assert not any(gradient.any() for gradient in gradients(value, held))

    def test_masked_classes_are_finite(self):
        for settings in self.case.settings:
            *sides, labels = self.case.inputs(seeded(32), 5)
            for keep in (2, 1):  # the label's class and one other, then the label's alone
                kept = torch.arange(4) - labels[:, None]
                masked = leaves(tuple(self.mask_classes(x, kept % 4 >= keep) for x in sides))
                value = self.case.function(*masked, labels, **settings)
                assert torch.isfinite(value)
                assert all(torch.isfinite(g).all() for g in gradients(value, masked))

    def mask_classes(self, logits, out):
        return logits.masked_fill(out, -torch.inf)
