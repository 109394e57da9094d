import math

import torch
import torch.nn.functional as F
from _harness.losses import Golden, LossCase, LossTester, gradients, seeded

from congruence.losses import ClassAttentionLoss, class_attention_loss
from congruence.losses.catkd import CHECKS


def maps(generator, rows):
    student = torch.randn(rows, 3, 3, 3, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, 3, 4, 2, generator=generator, dtype=torch.float64)


def regions(sample, resolution, normalize):
    found = []
    for class_map in sample:
        height, width = len(class_map), len(class_map[0])
        values = []
        for i in range(resolution):
            for j in range(resolution):
                rows = range(i * height // resolution, math.ceil((i + 1) * height / resolution))
                columns = range(j * width // resolution, math.ceil((j + 1) * width / resolution))
                cell = [class_map[y][x] for y in rows for x in columns]
                values.append(sum(cell) / len(cell))
        length = math.sqrt(sum(v * v for v in values)) if normalize else 1
        found += [v / length for v in values]
    return found


def reference(student, teacher, *, resolution=2, normalize=False):
    values = []
    for pair in zip(student.tolist(), teacher.tolist(), strict=True):
        ours, theirs = (regions(sample, resolution, normalize) for sample in pair)
        values.append(sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / len(ours))
    return torch.tensor(values, dtype=torch.float64)


class TestClassAttention(LossTester):
    case = LossCase(
        function=class_attention_loss,
        module=ClassAttentionLoss,
        checks=CHECKS,
        inputs=maps,
        reference=reference,
        settings=({}, {"normalize": True}, {"resolution": 4, "normalize": True}, {"resolution": 1}),
        zero_at_equal=({}, {"normalize": True}, {"resolution": 3}),
        goldens=(Golden("catkd_A"),),
        bad_arguments=(
            (
                (torch.zeros(4, 3, 2, 2), torch.zeros(4, 5, 2, 2)),
                "must have the same rows and classes, got `student_map` [4, 3, 2, 2], `teacher_map` [4, 5, 2, 2].",
            ),
            ((torch.zeros(4, 3), torch.zeros(4, 3)), "`student_map` must be a non-empty 4-D tensor, got shape [4, 3]."),
            ((torch.zeros(4, 3, 2, 2), torch.zeros(5, 3, 2, 2)), "`teacher_map` [5, 3, 2, 2]."),
        ),
    )

    def test_equals_torch(self):
        student, teacher = self.case.inputs(seeded(), 5)
        ours, theirs = (F.adaptive_avg_pool2d(x, 2) for x in (student, teacher))
        torch.testing.assert_close(class_attention_loss(student, teacher), F.mse_loss(ours, theirs))
        ours, theirs = (F.normalize(x.flatten(2), dim=2) for x in (ours, theirs))
        value = class_attention_loss(student, teacher, normalize=True)
        torch.testing.assert_close(value, F.mse_loss(ours, theirs))

    def test_normalised_maps_of_zeros_have_no_gradient(self):
        student = torch.zeros(2, 3, 2, 2, requires_grad=True)
        value = class_attention_loss(student, torch.randn(2, 3, 1, 1), normalize=True)
        assert value.item() > 0
        assert not gradients(value, (student,))[0].any()
