import math

import torch
from _harness.labelled import BAD_LABELS, LabelledLossTester, logits_and_labels
from _harness.losses import Golden, LossCase, gradients, leaves, seeded

from congruence.losses import NormalizedKdLoss, cross_entropy_loss, decoupled_kd_loss, normalized_kd_loss
from congruence.losses.nkd import CHECKS


def shares(row, temperature=1.0):
    powers = [math.exp(v / temperature) for v in row]
    return [v / sum(powers) for v in powers]


def reference(student, teacher, labels, *, gamma=1.5, temperature=1.0):
    values = []
    for s, t, label in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        value = -shares(t)[label] * math.log(shares(s)[label])
        others = [shares([v for c, v in enumerate(row) if c != label], temperature) for row in (s, t)]
        value -= gamma * temperature**2 * sum(p * math.log(q) for q, p in zip(*others, strict=True))
        values.append(value)
    return torch.tensor(values, dtype=torch.float64)


class TestNormalizedKd(LabelledLossTester):
    case = LossCase(
        function=normalized_kd_loss,
        module=NormalizedKdLoss,
        checks=CHECKS,
        over_classes=True,
        inputs=logits_and_labels,
        reference=reference,
        settings=({}, {"gamma": 3.5, "temperature": 3}, {"gamma": 0}),
        goldens=(Golden("nkd_A", inputs=("in_s", "in_t", "in_y")),),
        zero_at_equal=(),
        differentiable=(0,),  # the teacher's share of the label is a constant
        bad_arguments=BAD_LABELS,
    )

    def test_a_sure_teacher_is_cross_entropy(self):
        student, _, labels = logits_and_labels(seeded(), 6)
        teacher = 1e4 * torch.nn.functional.one_hot(labels, 4).double()
        value = normalized_kd_loss(student, teacher, labels, gamma=0.0)
        torch.testing.assert_close(value, cross_entropy_loss(student, labels))

    def test_the_other_classes_have_the_gradient_of_dkd(self):
        student, teacher, labels = logits_and_labels(seeded(), 6)
        (student,) = leaves((student,))
        both = (normalized_kd_loss(student, teacher, labels, gamma=g, temperature=3.0) for g in (2.0, 0.0))
        ours = gradients(next(both) - next(both), (student,))
        value = decoupled_kd_loss(student, teacher, labels, alpha=0.0, beta=2.0, temperature=3.0)
        torch.testing.assert_close(ours, gradients(value, (student,)))

    def test_a_weight_of_0_leaves_out_what_is_infinite(self):
        far = torch.tensor([[3e38, 3e38, -3e38]], dtype=torch.bfloat16)
        value = normalized_kd_loss(far, far.flip(1), torch.tensor([1]), gamma=0.0)
        torch.testing.assert_close(value.item(), 0.5 * math.log(2), rtol=1e-6, atol=0)

    def test_an_own_logit_that_is_no_number_shows_where_the_teacher_gives_its_class_no_share(self):
        student = torch.tensor([[torch.nan, 1.0, 2.0]])
        teacher = torch.tensor([[0.0, 1e4, 0.0]])
        assert normalized_kd_loss(student, teacher, torch.tensor([0])).isnan()
