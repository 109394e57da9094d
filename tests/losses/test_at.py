import torch
import torch.nn.functional as F
from _harness.losses import Golden, LossCase, LossTester, seeded

from congruence.losses import AttentionTransferLoss, attention_transfer_loss
from congruence.losses.at import CHECKS


def maps(generator, rows):
    student = torch.randn(rows, 2, 2, 3, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, 3, 2, 3, generator=generator, dtype=torch.float64)


def reference(student, teacher):
    def attention(sample):
        channels, positions = len(sample), len(sample[0])
        energy = [sum(sample[c][p] ** 2 for c in range(channels)) / channels for p in range(positions)]
        length = sum(value**2 for value in energy) ** 0.5
        return [value / length for value in energy]

    values = []
    for ours, theirs in zip(student.flatten(2).tolist(), teacher.flatten(2).tolist(), strict=True):
        pairs = list(zip(attention(ours), attention(theirs), strict=True))
        values.append(sum((a - b) ** 2 for a, b in pairs) / len(pairs))
    return torch.tensor(values, dtype=torch.float64)


class TestAttentionTransfer(LossTester):
    case = LossCase(
        function=attention_transfer_loss,
        module=AttentionTransferLoss,
        checks=CHECKS,
        inputs=maps,
        reference=reference,
        goldens=(Golden("at_A"),),
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(4, 3, 2, 2)), "`student_map` must be a non-empty 4-D tensor, got shape"),
            ((torch.zeros(4, 3, 2, 2), torch.zeros(5, 3, 2, 2)), "`student_map` [4, 3, 2, 2], `teacher_map` [5, 3"),
            ((torch.zeros(4, 3, 2, 2), torch.zeros(4, 3, 2, 2).long()), "`teacher_map` must be a floating-point"),
        ),
    )

    def test_the_larger_map_is_pooled_before_it_is_squared(self):
        student = torch.randn(3, 2, 4, 6, generator=seeded(0), dtype=torch.float64)
        teacher = torch.randn(3, 5, 2, 3, generator=seeded(1), dtype=torch.float64)
        expected = reference(F.adaptive_avg_pool2d(student, (2, 3)), teacher).mean()
        torch.testing.assert_close(attention_transfer_loss(student, teacher), expected)
        torch.testing.assert_close(attention_transfer_loss(teacher, student), expected)

    def test_scale_and_order_of_channels_do_not_matter(self):
        student, teacher = maps(seeded(0), 4)
        value = attention_transfer_loss(student, teacher)
        torch.testing.assert_close(attention_transfer_loss(-1e3 * student, 1e-6 * teacher.flip(1)), value)
        huge = [(1e30 * tensor).float() for tensor in (student, teacher)]
        torch.testing.assert_close(attention_transfer_loss(*huge), value.float())
