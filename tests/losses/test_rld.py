import math

import torch
from _harness.labelled import BAD_LABELS, LabelledLossTester, logits_and_labels
from _harness.losses import Golden, LossCase, gradients, leaves, seeded

from congruence.losses import RefinedLogitLoss, decoupled_kd_loss, refined_logit_loss
from congruence.losses.rld import CHECKS


def shares(row, temperature):
    powers = [math.exp(v / temperature) for v in row]
    return [v / sum(powers) for v in powers]


def apart(first, second):
    return sum(p * math.log(p / q) for p, q in zip(first, second, strict=True))


def reference(student, teacher, labels, *, alpha=1.0, beta=8.0, temperature=4.0, confidence_temperature=None):
    sure = confidence_temperature or temperature
    values = []
    for s, t, label in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        p, q = max(shares(t, sure)), shares(s, sure)[label]
        value = alpha * sure**2 * apart([p, 1 - p], [q, 1 - q])
        below = [c for c, v in enumerate(t) if v < t[label]]
        if below:
            sides = (shares([row[c] for c in below], temperature) for row in (t, s))
            value += beta * temperature**2 * apart(*sides)
        values.append(value)
    return torch.tensor(values, dtype=torch.float64)


def right(arguments):
    _, teacher, _ = arguments
    return teacher, teacher, teacher.argmax(1)


class TestRefinedLogit(LabelledLossTester):
    case = LossCase(
        function=refined_logit_loss,
        module=RefinedLogitLoss,
        checks=CHECKS,
        over_classes=True,
        inputs=logits_and_labels,
        reference=reference,
        settings=(
            {},
            {"confidence_temperature": 1.0, "temperature": 2},
            {"alpha": 0.5, "beta": 0},
            {"alpha": 0.0, "beta": 2.0},
        ),
        goldens=(Golden("rld_A", inputs=("in_s", "in_t", "in_y")),),
        zero_at_equal=({}, {"confidence_temperature": 1, "temperature": 0.1}),
        equal=right,
        bad_arguments=BAD_LABELS,
    )

    def test_where_the_teacher_is_right_it_is_dkd(self):
        student, teacher, _ = logits_and_labels(seeded(), 6)
        labels = teacher.argmax(1)
        for settings in ({}, {"alpha": 0.3, "beta": 2.0, "temperature": 2.0}):
            value = refined_logit_loss(student, teacher, labels, **settings)
            torch.testing.assert_close(value, decoupled_kd_loss(student, teacher, labels, **settings))

    def test_a_label_of_the_smallest_logit_has_no_classes_below(self):
        student, teacher, _ = logits_and_labels(seeded(), 6)
        (student,) = leaves((student,))
        value = refined_logit_loss(student, teacher, teacher.argmin(1), alpha=0.0)
        assert value.item() == 0
        assert not gradients(value, (student,))[0].any()
        level = torch.zeros(2, 3, requires_grad=True)
        value = refined_logit_loss(level, torch.zeros(2, 3), torch.tensor([0, 2]))
        assert value.item() == 0
        assert not gradients(value, (level,))[0].any()

    def test_what_ranks_above_the_label_does_not_matter(self):
        student, teacher = torch.tensor([[0.0, 1.0, 2.0, 4.0]]), torch.tensor([[9.0, 8.0, 1.0, 0.0]])
        label = torch.tensor([1])
        value = refined_logit_loss(student, teacher, label, alpha=0.0, beta=1.0, temperature=1.0)
        p, q = shares([1.0, 0.0], 1.0), shares([2.0, 4.0], 1.0)
        torch.testing.assert_close(value, torch.tensor(apart(p, q)))

    def test_far_logits_keep_value_and_gradient(self):
        student = torch.tensor([[1e4, 0.0, -3.0], [-1e4, 2.0, 0.0]], requires_grad=True)
        teacher = torch.tensor([[1.0, 2.0, 3.0], [5.0, 1.0, 0.0]])
        value = refined_logit_loss(student, teacher, torch.tensor([0, 0]), beta=0.0, temperature=1.0)
        assert 1e3 < value.item() < 1e4
        (gradient,) = gradients(value, (student,))
        assert torch.isfinite(gradient).all()
        assert (gradient[:, 0].abs() > 0).all()
