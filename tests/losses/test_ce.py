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


def reference(logits, labels, *, label_smoothing=0.0, class_weights=None):
    """Slow loops; the mean of weighted losses is not the mean of them, and compared with torch's own below."""
    losses = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total, classes = math.log(sum(math.exp(v) for v in row)), len(row)
        hard = label if isinstance(label, list) else [float(c == label) for c in range(classes)]
        soft = [(1 - label_smoothing) * q + label_smoothing / classes for q in hard]
        weights = class_weights or [1.0] * classes
        losses.append(sum(w * q * (total - v) for w, q, v in zip(weights, soft, row, strict=True)))
    return torch.tensor(losses, dtype=torch.float64)


def soft_labels(rows, seed=3):
    return torch.rand(rows, 4, generator=seeded(seed), dtype=torch.float64).softmax(1)


WEIGHTS = [0.5, 2.0, 0.0, 1.25]


class TestCrossEntropy(LossTester):
    case = LossCase(
        function=cross_entropy_loss,
        module=CrossEntropyLoss,
        checks=CHECKS,
        over_classes=True,
        inputs=logits_and_labels,
        reference=reference,
        settings=({}, {"label_smoothing": 0.2}),
        no_golden="torch's own cross entropy is the reference",
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(5).long()), "got `student_logits` [4, 3], `labels` [5]."),
            ((torch.zeros(2, 3), torch.tensor([0, 3])), "`labels` must be class labels in [0, 3)"),
            ((torch.zeros(2, 3), torch.zeros(2)), "`labels` must be a 1-D integer tensor of class labels"),
            ((torch.zeros(2, 3), torch.zeros(2, 4)), "got `student_logits` [2, 3], `labels` [2, 4]."),
            (
                (torch.zeros(2, 3), torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])),
                "`labels` must be soft labels whose rows have the sum 1 (labels that hold by themselves are for "
                "`bce`), got 2 in row 1.",
            ),
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

    @pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
    @pytest.mark.parametrize("weights", [None, WEIGHTS])
    @pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
    def test_smoothed_weighted_and_soft_ones_are_the_definition_and_torch(self, smoothing, weights, reduction):
        logits, hard = logits_and_labels(seeded(), 7)
        settings = {"label_smoothing": smoothing, "class_weights": weights}
        for labels in (hard, soft_labels(7)):
            ours = cross_entropy_loss(logits, labels, **settings, reduction=reduction)
            weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
            theirs = F.cross_entropy(logits, labels, weight, label_smoothing=smoothing, reduction=reduction)
            torch.testing.assert_close(ours, theirs)
            if reduction == "none":
                torch.testing.assert_close(ours, reference(logits, labels, **settings), rtol=1e-10, atol=1e-13)

    @pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1, "class_weights": WEIGHTS}])
    def test_unlabelled_rows_change_nothing_whatever_the_labels_are(self, settings):
        logits, hard = logits_and_labels(seeded(), 6)
        for labels in (hard, soft_labels(6)):
            some = labels.clone()
            some[[0, 3]] = -1
            kept = [1, 2, 4, 5]
            leaf = logits.clone().requires_grad_()
            value = cross_entropy_loss(leaf, some, **settings)
            torch.testing.assert_close(value, cross_entropy_loss(logits[kept], labels[kept], **settings))
            (gradient,) = torch.autograd.grad(value, leaf)
            assert (gradient[[0, 3]] == 0).all()
            none = cross_entropy_loss(leaf, torch.full_like(labels, -1), **settings)
            (gradient,) = torch.autograd.grad(none, leaf)
            assert none.item() == 0.0
            assert (gradient == 0).all()

    def test_one_hot_soft_labels_are_the_hard_ones(self):
        logits, labels = logits_and_labels(seeded(), 6)
        for settings in ({}, {"label_smoothing": 0.3}):
            soft = cross_entropy_loss(logits, F.one_hot(labels, 4).double(), **settings)
            torch.testing.assert_close(soft, cross_entropy_loss(logits, labels, **settings))

    def test_what_is_no_number_in_soft_labels_shows(self):
        logits, _ = logits_and_labels(seeded(), 4)
        for bad in (math.nan, math.inf):
            labels = soft_labels(4)
            labels[2, 1] = bad
            assert not torch.isfinite(cross_entropy_loss(logits, labels))

    def test_rows_whose_classes_have_no_weight_are_no_division_by_zero(self):
        logits = torch.randn(3, 4, generator=seeded()).requires_grad_()
        value = cross_entropy_loss(logits, torch.full((3,), 2), class_weights=WEIGHTS)
        value.backward()
        assert value.item() == 0.0
        assert (logits.grad == 0).all()

    def test_weights_are_one_a_class(self):
        with pytest.raises(ValueError, match=r"`class_weights` must be one for each of the 4 classes, got 2\."):
            cross_entropy_loss(torch.zeros(2, 4), torch.tensor([0, 1]), class_weights=[1.0, 2.0])

    def test_a_module_holds_the_weights_where_the_logits_are_and_not_in_its_state(self):
        module = CrossEntropyLoss(class_weights=WEIGHTS)
        logits, labels = logits_and_labels(seeded(), 6)
        assert torch.equal(module(logits, labels), cross_entropy_loss(logits, labels, class_weights=WEIGHTS))
        assert module.state_dict() == {}
        assert module.counted(labels).item() == pytest.approx(sum(WEIGHTS[label] for label in labels.tolist()))
        assert "class_weights=[0.5, 2.0, 0.0, 1.25]" in repr(module)
