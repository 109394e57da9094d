import pytest
import torch
from _harness import golden
from _harness.losses import LossCase, LossTester, gradients, leaves, seeded

from congruence.losses import ClassWassersteinLoss, class_wasserstein_loss, wasserstein_loss
from congruence.losses.class_wasserstein import CHECKS


def embeddings(generator, rows):
    sides = [torch.randn(rows, 3, generator=generator, dtype=torch.float64) for _ in range(2)]
    return *sides, torch.tensor([4, 0, -1, 4, 2, 0])[:rows], torch.tensor([0, 4, 4, 7, -1, 0])[:rows]


def equal(arguments):
    return arguments[0], arguments[0], arguments[2], arguments[2]


def reference(student, teacher, student_labels, teacher_labels, *, divide_by="present", classes=None):
    shared = [k for k in range(10) if k in student_labels.tolist() and k in teacher_labels.tolist()]
    pairs = [(student[student_labels == k], teacher[teacher_labels == k]) for k in shared]
    values = torch.stack([wasserstein_loss(*pair) for pair in pairs])
    return values.mean() if divide_by == "present" else values.sum() / classes


class TestClassWasserstein(LossTester):
    case = LossCase(
        function=class_wasserstein_loss,
        module=ClassWassersteinLoss,
        checks=CHECKS,
        inputs=embeddings,
        reference=reference,
        settings=({}, {"divide_by": "all", "classes": 10}),
        zero_at_equal=({}, {"divide_by": "all", "classes": 10}),
        equal=equal,
        no_golden="the case has values of seven losses under names of their own: test_equals_the_golden",
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 2), torch.zeros(4).int(), torch.zeros(4).int()), "`teacher` [4, 2]."),
            (
                (torch.zeros(4, 3), torch.zeros(5, 3), torch.zeros(5).int(), torch.zeros(5).int()),
                "got `student` [4, 3], `student_labels` [5].",
            ),
            (
                (torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4).int(), torch.zeros(4)),
                "`teacher_labels` must be a 1-D integer tensor of class labels, got torch.float32 of shape [4].",
            ),
        ),
    )

    def test_equals_the_golden(self):
        stored = golden.arrays("ot_24x8")
        labels = stored["in_labels_x"], stored["in_labels_y"]
        value = class_wasserstein_loss(stored["in_x"].double(), stored["in_y"].double(), *labels)
        torch.testing.assert_close(value, stored["cc_W2sq_mean"], rtol=1e-12, atol=0)
        whole = class_wasserstein_loss(
            stored["in_x"].double(), stored["in_y"].double(), *labels, divide_by="all", classes=15
        )
        torch.testing.assert_close(whole, stored["cc_W2sq_per_class"].sum() / 15, rtol=1e-12, atol=0)
        for label, expected in enumerate(stored["cc_W2sq_per_class"]):
            alone = [side.where(side == label, -1) for side in labels]
            value = class_wasserstein_loss(stored["in_x"].double(), stored["in_y"].double(), *alone)
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)

    def test_one_class_is_the_plain_distance(self):
        student, teacher = embeddings(seeded(), 6)[:2]
        labels = torch.full((6,), 3)
        expected = wasserstein_loss(student, teacher[:4])
        torch.testing.assert_close(class_wasserstein_loss(student, teacher[:4], labels, labels[:4]), expected)

    def test_rows_of_classes_on_one_side_have_no_gradient(self):
        arguments = leaves(embeddings(seeded(), 6))
        student, teacher = gradients(class_wasserstein_loss(*arguments), arguments)
        assert student.abs().sum(1).gt(0).tolist() == [True, True, False, True, False, True]
        assert teacher.abs().sum(1).gt(0).tolist() == [True, True, True, False, False, True]

    def test_no_class_on_both_sides_is_0_with_zero_gradient(self):
        student, teacher = leaves(embeddings(seeded(), 3)[:2])
        for ours, theirs in (([0, 1, 2], [3, 4, 5]), ([-1, -1, -1], [-1, -1, -1])):
            value = class_wasserstein_loss(student, teacher, torch.tensor(ours), torch.tensor(theirs))
            assert value.item() == 0
            assert all(not g.any() for g in gradients(value, (student, teacher)))

    @pytest.mark.parametrize("settings", [{"divide_by": "all"}, {"classes": 10}])
    def test_the_number_of_classes_goes_with_all_of_them(self, settings):
        arguments = embeddings(seeded(), 4)
        for function in (
            lambda: class_wasserstein_loss(*arguments, **settings),
            lambda: ClassWassersteinLoss(**settings),
        ):
            with pytest.raises(ValueError, match=r"`: `classes` must be (the number of classes|None) for `divide_by="):
                function()

    def test_a_class_beyond_their_number_is_refused(self):
        with pytest.raises(ValueError, match=r"`student_labels` must be class labels in \[0, 4\) or negative .* got 4"):
            class_wasserstein_loss(*embeddings(seeded(), 4), divide_by="all", classes=4)
