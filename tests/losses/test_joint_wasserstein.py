import itertools
import math

import pytest
import torch
from _harness.losses import LossCase, LossTester, gradients, leaves, seeded

from congruence.losses import JointWassersteinLoss, joint_wasserstein_loss, wasserstein_loss
from congruence.losses.joint_wasserstein import CHECKS


def batch(generator, rows):
    features = [torch.randn(rows, 3, generator=generator, dtype=torch.float64) for _ in range(2)]
    targets = [torch.randn(rows, 4, generator=generator, dtype=torch.float64).softmax(1) for _ in range(2)]
    return *features, *targets


def equal(arguments):
    return arguments[0], arguments[0], arguments[2], arguments[2]


def reference(student, teacher, student_targets, teacher_targets, *, beta=1.0, label_cost="squared_euclidean"):
    def apart(p, q):
        return sum((a - b) ** 2 for a, b in zip(p, q, strict=True))

    def labels(y, other):
        if label_cost != "cross_entropy":
            return apart(y, other) if label_cost == "squared_euclidean" else math.sqrt(apart(y, other))
        return -sum(b * max(math.log(a), -100) for a, b in zip(y, other, strict=True))

    sides = zip(student.tolist(), student_targets.tolist(), strict=True)
    others = list(zip(teacher.tolist(), teacher_targets.tolist(), strict=True))
    cost = [[apart(f, g) + beta * labels(y, z) for g, z in others] for f, y in sides]
    count = len(cost)
    totals = [sum(cost[i][j] for i, j in enumerate(order)) for order in itertools.permutations(range(count))]
    return torch.tensor(min(totals) / count, dtype=torch.float64)


class TestJointWasserstein(LossTester):
    case = LossCase(
        function=joint_wasserstein_loss,
        module=JointWassersteinLoss,
        checks=CHECKS,
        inputs=batch,
        reference=reference,
        settings=(
            {},
            {"beta": 7.0},
            {"beta": 7.0, "label_cost": "euclidean"},
            {"label_cost": "cross_entropy"},
            {"beta": 0.5, "label_cost": "cross_entropy"},
        ),
        zero_at_equal=({}, {"label_cost": "euclidean"}),
        equal=equal,
        no_golden="there is none with targets",
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 2), torch.zeros(4, 5), torch.zeros(4, 5)), "`teacher` [4, 2]."),
            ((torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4, 5), torch.zeros(4, 6)), "`teacher_targets` [4, 6]."),
            ((torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(3, 5), torch.zeros(4, 5)), "`student_targets` [3, 5]."),
            ((torch.zeros(4, 3), torch.zeros(5, 3), torch.zeros(4, 5), torch.zeros(4, 5)), "`teacher_targets` [4, 5]."),
            ((torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4), torch.zeros(4, 5)), "non-empty 2-D tensor"),
        ),
    )

    def test_without_labels_it_is_the_plain_distance(self):
        arguments = batch(seeded(), 6)
        expected = wasserstein_loss(*arguments[:2])
        torch.testing.assert_close(joint_wasserstein_loss(*arguments, beta=0.0), expected, rtol=1e-12, atol=0)

    def test_targets_are_further_features(self):
        student, teacher, ours, theirs = batch(seeded(), 6)
        together = wasserstein_loss(torch.cat([student, 2 * ours], 1), torch.cat([teacher, 2 * theirs], 1))
        value = joint_wasserstein_loss(student, teacher, ours, theirs, beta=4.0)
        torch.testing.assert_close(value, together, rtol=1e-12, atol=0)

    @pytest.mark.parametrize("label_cost", ["squared_euclidean", "euclidean", "cross_entropy"])
    def test_unequal_batches(self, label_cost):
        student, teacher, ours, theirs = batch(seeded(), 6)
        half = joint_wasserstein_loss(student[:3], teacher, ours[:3], theirs, label_cost=label_cost)
        twice = (side[:3].repeat_interleave(2, 0) for side in (student, ours))
        first, second = twice
        torch.testing.assert_close(half, joint_wasserstein_loss(first, teacher, second, theirs, label_cost=label_cost))

    def test_a_probability_of_0_costs_100_and_has_no_gradient(self):
        features = torch.zeros(1, 2)
        for smallest, cost in ((0.0, 100.0), (1e-40, 92.1034)):  # 1/1e-40 is no float32
            targets = torch.tensor([[1.0, smallest]], requires_grad=True)
            value = joint_wasserstein_loss(
                features, features, targets, torch.tensor([[0.0, 1.0]]), label_cost="cross_entropy"
            )
            assert round(value.item(), 3) == round(cost, 3)
            assert gradients(value, (targets,))[0].tolist() == [[0.0, 0.0]]

    def test_cross_entropy_falls_as_the_student_predicts_what_the_teacher_does(self):
        student, _, ours, theirs = leaves(batch(seeded(), 5))
        value = joint_wasserstein_loss(student, student, ours, theirs, beta=0.01, label_cost="cross_entropy")
        gradient = gradients(value, (ours,))[0]
        torch.testing.assert_close(gradient, -0.01 * theirs / ours / 5)

    def test_the_label_cost_is_squared_or_not(self):
        features, targets = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
        other = torch.tensor([[0.0, 1.0]])
        found = [
            joint_wasserstein_loss(features, features, targets, other, beta=3.0, label_cost=cost).item()
            for cost in ("squared_euclidean", "euclidean")
        ]
        assert found == pytest.approx([6.0, 3 * math.sqrt(2)])
