import math

import torch
from _harness.losses import Golden, LossCase, LossTester

from congruence.losses import PktLoss, pkt_loss
from congruence.losses.pkt import CHECKS


def embeddings(generator, rows):
    student = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return student, torch.randn(rows, 5, generator=generator, dtype=torch.float64)


def reference(student, teacher, *, eps=1e-7):
    def rows(x):
        lengths = [math.sqrt(sum(v * v for v in row)) + eps for row in x]
        units = [[v / length for v in row] for row, length in zip(x, lengths, strict=True)]
        cosines = [[(1 + sum(a * b for a, b in zip(p, q, strict=True))) / 2 for q in units] for p in units]
        return [[value / sum(row) for value in row] for row in cosines]

    student, teacher = rows(student.tolist()), rows(teacher.tolist())
    total, count = 0.0, len(student)
    for i in range(count):
        for j in range(count):
            total += teacher[i][j] * math.log((teacher[i][j] + eps) / (student[i][j] + eps))
    return torch.tensor(total / count**2, dtype=torch.float64)


class TestPkt(LossTester):
    case = LossCase(
        function=pkt_loss,
        module=PktLoss,
        checks=CHECKS,
        inputs=embeddings,
        reference=reference,
        settings=({}, {"eps": 1e-3}),
        goldens=(Golden("pkt_A"),),
        relational=True,
        bad_arguments=(
            ((torch.zeros(4, 3), torch.zeros(5, 3)), "got `student` [4, 3], `teacher` [5, 3]."),
            ((torch.zeros(4), torch.zeros(4, 3)), "`student` must be a non-empty 2-D tensor, got shape [4]."),
            ((torch.zeros(4, 3), torch.zeros(4, 3).long()), "`teacher` must be a floating-point tensor"),
            ((torch.zeros(0, 3), torch.zeros(0, 3)), "got shape [0, 3]."),
        ),
    )

    def test_lengths_of_rows_do_not_matter(self):
        student, teacher = embeddings(torch.Generator().manual_seed(0), 6)
        scaled = student * torch.tensor([1.0, 10, 100, 2, 3, 4], dtype=torch.float64)[:, None]
        torch.testing.assert_close(pkt_loss(scaled, teacher), pkt_loss(student, teacher), rtol=1e-5, atol=0)

    def test_rotated_student_gives_zero(self):
        student, _ = embeddings(torch.Generator().manual_seed(0), 6)
        rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double()).Q
        assert pkt_loss(student @ rotation, student).abs().item() < 1e-15
