import torch
import torch.nn.functional as F
from _harness.losses import LossCase, LossTester, seeded

from congruence.losses import MimicLoss, mimic_loss
from congruence.losses.mimic import CHECKS


def embeddings(generator, rows):
    student = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, 3, generator=generator, dtype=torch.float64)


def reference(student, teacher):
    pairs = zip(student.tolist(), teacher.tolist(), strict=True)
    losses = [sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) for s, t in pairs]
    return torch.tensor(losses, dtype=torch.float64)


class TestMimic(LossTester):
    case = LossCase(
        function=mimic_loss,
        module=MimicLoss,
        checks=CHECKS,
        inputs=embeddings,
        reference=reference,
        no_golden="the definition is one line, and torch has it",
        bad_arguments=(
            (
                (torch.zeros(4, 3), torch.zeros(4, 5)),
                "must have the same shape, got `student` [4, 3], `teacher` [4, 5].",
            ),
            ((torch.zeros(4, 3), torch.zeros(5, 3)), "got `student` [4, 3], `teacher` [5, 3]."),
            ((torch.zeros(3), torch.zeros(3)), "got shape [3]."),
        ),
    )

    def test_equals_torch_but_for_the_width(self):
        student, teacher = embeddings(seeded(), 6)
        torch.testing.assert_close(mimic_loss(student, teacher), 3 * F.mse_loss(student, teacher))
