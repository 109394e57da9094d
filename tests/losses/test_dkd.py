import math

import pytest
import torch
from _harness import golden
from _harness.losses import Golden, LossCase, LossTester, gradients, seeded

from congruence.losses import DecoupledKdLoss, cross_entropy_loss, decoupled_kd_loss, distillation_loss
from congruence.losses.dkd import CHECKS


def logits_and_labels(generator, rows):
    student = 3 * torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    teacher = 3 * torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    return student, teacher, torch.randint(0, 4, (rows,), generator=generator)


def divergence(first, second):
    return sum(p * math.log(p / q) for p, q in zip(first, second, strict=True))


def reference(student, teacher, labels, *, alpha=1.0, beta=8.0, temperature=4.0):
    losses = []
    for s_row, t_row, label in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        s, t = ([math.exp(v / temperature) for v in row] for row in (s_row, t_row))
        s, t = ([v / sum(row) for v in row] for row in (s, t))
        target = divergence([t[label], 1 - t[label]], [s[label], 1 - s[label]])
        s, t = ([v for c, v in enumerate(row) if c != label] for row in (s, t))
        s, t = ([v / sum(row) for v in row] for row in (s, t))
        losses.append(temperature**2 * (alpha * target + beta * divergence(t, s)))
    return torch.tensor(losses, dtype=torch.float64)


class TestDecoupledKd(LossTester):
    case = LossCase(
        function=decoupled_kd_loss,
        module=DecoupledKdLoss,
        checks=CHECKS,
        over_classes=True,
        inputs=logits_and_labels,
        reference=reference,
        settings=({}, {"temperature": 1}, {"alpha": 0.5, "beta": 0}, {"alpha": 0.0, "beta": 2.0}),
        goldens=(Golden("dkd_A", inputs=("in_s", "in_t", "in_y")),),
        zero_at_equal=({}, {"temperature": 1.0}, {"temperature": 0.01}),
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 5), torch.zeros(4).long()), "`teacher_logits` [4, 5]."),
            ((torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(3).long()), "`labels` [3]."),
            ((torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 3])), "class labels in [0, 3)"),
            ((torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2)), "must be a 1-D integer tensor of class labels"),
            ((torch.zeros(4), torch.zeros(4), torch.zeros(4).long()), "got shape [4]."),
        ),
    )

    @pytest.mark.parametrize(("part", "settings"), [("tckd", {"beta": 0.0}), ("nckd", {"alpha": 0.0, "beta": 1.0})])
    def test_each_part_is_the_golden_one(self, part, settings):
        stored = golden.arrays("dkd_A")
        arguments = (stored["in_s"].double(), stored["in_t"].double(), stored["in_y"])
        torch.testing.assert_close(decoupled_kd_loss(*arguments, **settings), stored[f"out_{part}"], rtol=1e-10, atol=0)

    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    def test_weighed_by_the_rest_of_the_teacher_it_is_kd(self, temperature):
        student, teacher, labels = logits_and_labels(seeded(), 6)
        rest = 1 - (teacher / temperature).softmax(1).gather(1, labels[:, None])[:, 0]
        parts = [
            decoupled_kd_loss(student, teacher, labels, alpha=a, beta=1 - a, temperature=temperature, reduction="none")
            for a in (1.0, 0.0)
        ]
        expected = distillation_loss(student, teacher, temperature=temperature, reduction="none")
        torch.testing.assert_close(parts[0] + rest * parts[1], expected)

    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    def test_far_logits_keep_value_and_gradient(self, sign, temperature):
        student = sign * torch.tensor([[1e4, 0.0, -3.0], [-1e4, 2.0, 0.0]])
        student.requires_grad_()
        teacher, labels = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 0])
        value = decoupled_kd_loss(student, teacher, labels, beta=0.0, temperature=temperature)
        value.backward()
        sure = (teacher / temperature).softmax(1)[:, 0]
        far = torch.stack([1 - sure[0], sure[1]] if sign > 0 else [sure[0], 1 - sure[1]])
        # Beside 1e4 the other logits and the teacher's entropy are about one part in a thousand.
        torch.testing.assert_close(value, temperature * 1e4 * far.mean(), rtol=2e-3, atol=0)
        assert torch.isfinite(student.grad).all()
        assert (student.grad[:, 0].abs() > 0).all()

    def test_certain_teacher_of_the_label_is_cross_entropy(self):
        student, _, labels = logits_and_labels(seeded(), 6)
        teacher = 1e4 * torch.nn.functional.one_hot(labels, 4).double()
        value = decoupled_kd_loss(student, teacher, labels, beta=0.0, temperature=1.0)
        torch.testing.assert_close(value, cross_entropy_loss(student, labels))

    def test_unlabelled_rows_are_left_out(self):
        student, teacher, labels = logits_and_labels(seeded(), 6)
        labels[[1, 4]] = torch.tensor([-1, -7])
        labelled = labels >= 0
        student.requires_grad_()
        value = decoupled_kd_loss(student, teacher, labels)
        torch.testing.assert_close(value, decoupled_kd_loss(student[labelled], teacher[labelled], labels[labelled]))
        value.backward()
        assert not student.grad[~labelled].any()
        assert student.grad[labelled].all()
        rows = decoupled_kd_loss(student, teacher, labels, reduction="none")
        assert not rows[~labelled].any()

    def test_no_label_at_all_gives_zero_and_zero_gradient(self):
        student, teacher, _ = logits_and_labels(seeded(), 3)
        student.requires_grad_()
        value = decoupled_kd_loss(student, teacher, torch.full((3,), -1))
        value.backward()
        assert value.item() == 0.0
        assert not student.grad.any()

    def test_masked_classes_are_finite(self):
        masked = torch.zeros(3, 4)
        masked[:, 1:] = -torch.inf  # all but the label
        masked[2, 3] = 1.0
        student = masked.clone().requires_grad_()
        value = decoupled_kd_loss(student, masked, torch.zeros(3, dtype=torch.long))
        (gradient,) = gradients(value, (student,))
        assert value == 0
        assert torch.isfinite(gradient).all()

    def test_what_an_unlabelled_row_holds_does_not_matter(self):
        student, teacher, labels = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([-1, 1, 2])
        student[0] = torch.nan
        student.requires_grad_()
        value = decoupled_kd_loss(student, teacher, labels)
        (gradient,) = gradients(value, (student,))
        torch.testing.assert_close(value, decoupled_kd_loss(student[1:], teacher[1:], labels[1:]))
        assert torch.isfinite(gradient).all()
