import math

import pytest
import torch
from _harness import golden
from _harness.losses import seeded, tight_clusters
from _harness.memory import largest_tensor, peak_bytes
from torch.nn import functional as F

from congruence.geometry import euclidean
from congruence.metrics import linear_cka, relations, rkd_distance_discrepancy


def spaces(rows=40, student_width=3, teacher_width=6):
    generator = seeded()
    teacher = torch.randn(rows, teacher_width, generator=generator, dtype=torch.float64)
    mixing = torch.randn(teacher_width, student_width, generator=generator, dtype=torch.float64)
    return teacher @ mixing + torch.randn(rows, student_width, generator=generator, dtype=torch.float64), teacher


def slow_cka(student, teacher):
    """By Gram matrices and the centring matrix."""
    rows = len(student)
    centring = torch.eye(rows, dtype=torch.float64) - 1 / rows
    ours, theirs = (centring @ x @ x.T @ centring for x in (student.double(), teacher.double()))
    return ((ours * theirs).sum() / (ours.norm() * theirs.norm())).item()


@pytest.mark.parametrize("widths", [(3, 6), (6, 3), (50, 60), (60, 3), (1, 1)])
@pytest.mark.parametrize("entries", [1, 100, 2**20])
def test_cka_is_the_definition(widths, entries, monkeypatch):
    monkeypatch.setattr(relations, "_CHUNK_ENTRIES", entries)
    student, teacher = spaces(40, *widths)
    student, teacher = student + 5, teacher - 3
    cka = linear_cka(student, teacher)
    assert isinstance(cka, float)
    assert cka == pytest.approx(slow_cka(student, teacher), rel=1e-11)
    assert cka == pytest.approx(linear_cka(teacher, student), rel=1e-13)


@pytest.mark.parametrize(("rows", "widths"), [(50_000, (8, 24)), (300, (400, 500))])
def test_memory_of_cka_is_as_said(rows, widths):
    student, teacher = (torch.randn(rows, width) for width in widths)
    w = sum(widths)
    said = 32 * (2**20 + w**2) if rows >= 2 * w else 24 * (2**20 + rows * w)
    assert peak_bytes(lambda: linear_cka(student, teacher)) <= said


def test_cka_of_a_copy_turned_scaled_and_shifted_is_one():
    _, teacher = spaces()
    turn = torch.linalg.qr(torch.randn(6, 6, generator=seeded(1), dtype=torch.float64)).Q
    assert linear_cka(teacher, teacher) == pytest.approx(1.0, rel=1e-14)
    assert linear_cka(7 * teacher @ turn + 100, teacher) == pytest.approx(1.0, rel=1e-12)
    stretched = teacher * torch.tensor([9.0, 1, 1, 1, 1, 1])
    assert linear_cka(stretched, teacher) < 0.9


def test_cka_of_features_without_correlation_is_zero():
    student = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    teacher = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    assert linear_cka(student, teacher) == 0.0


@pytest.mark.parametrize("width", [3, 90])
def test_cka_of_equal_rows_is_not_a_number(width):
    _, teacher = spaces()
    assert math.isnan(linear_cka(torch.full((40, width), 0.1), teacher))
    assert math.isnan(linear_cka(teacher[:1], teacher[:1]))


def slow_rkd(student, teacher):
    sides = []
    for x in (student.double(), teacher.double()):
        rows = [
            [
                0.0 if i == j else math.sqrt(max(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)), 1e-12))
                for j, b in enumerate(x.tolist())
            ]
            for i, a in enumerate(x.tolist())
        ]
        positive = [value for row in rows for value in row if value > 0]
        sides.append([[value * len(positive) / sum(positive) for value in row] for row in rows])
    gaps = [abs(a - b) for ours, theirs in zip(*sides, strict=True) for a, b in zip(ours, theirs, strict=True)]
    return sum(gap**2 / 2 if gap < 1 else gap - 0.5 for gap in gaps) / len(gaps)


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 100])
def test_rkd_equals_the_golden(chunk_size):
    stored = golden.arrays("rkd_dist_A")
    discrepancy = rkd_distance_discrepancy(stored["in_s"], stored["in_t"], chunk_size=chunk_size)
    assert discrepancy == pytest.approx(stored["loss"].item(), rel=1e-12)


@pytest.mark.parametrize("chunk_size", [None, 1, 7, 13])
def test_rkd_is_the_definition(chunk_size):
    student, teacher = spaces(20)
    student[0] *= 40  # some gaps lie above the bend of smooth L1
    student[3], teacher[4] = student[2], teacher[5]
    discrepancy = rkd_distance_discrepancy(student, teacher, chunk_size=chunk_size)
    assert discrepancy == pytest.approx(slow_rkd(student, teacher), rel=1e-11)


def test_rkd_of_tight_clusters_far_from_the_origin():
    student, teacher = tight_clusters(32, 8, 16)

    def relative(x):
        distances = euclidean(x).clamp(min=1e-6).fill_diagonal_(0)
        return distances / distances[distances > 0].mean()

    expected = F.smooth_l1_loss(relative(student), relative(teacher)).item()
    assert rkd_distance_discrepancy(student + 1e3, teacher - 1e3) == pytest.approx(expected, rel=1e-6)


def test_rkd_of_a_copy_turned_scaled_and_shifted_is_zero():
    _, teacher = spaces()
    turn = torch.linalg.qr(torch.randn(6, 6, generator=seeded(1), dtype=torch.float64)).Q
    assert rkd_distance_discrepancy(teacher, teacher, chunk_size=7) == 0.0
    assert rkd_distance_discrepancy(7 * teacher @ turn + 1, teacher) < 1e-28
    assert rkd_distance_discrepancy(teacher[:1], teacher[:1]) == 0.0
    equal = torch.ones(5, 2)
    assert rkd_distance_discrepancy(equal, 3 * equal) == 0.0


def test_memory_is_linear(monkeypatch):
    monkeypatch.setattr(relations, "_CHUNK_ENTRIES", 2000)
    data = spaces(1000)
    assert largest_tensor(lambda: rkd_distance_discrepancy(*data)) <= 6 * 1000
    assert largest_tensor(lambda: linear_cka(*data)) <= 6 * 1000
    wide = torch.randn(20, 5000, generator=seeded())  # neither is D²
    assert largest_tensor(lambda: linear_cka(wide, wide[:, :50])) <= 20 * 5000


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: linear_cka(torch.ones(2, 2), torch.ones(3, 2)), "`linear_cka`: `student` and `teacher` must have the"),
        (lambda: linear_cka(torch.ones(2), torch.ones(2)), "`student` must be a non-empty 2-D tensor, got shape [2]."),
        (
            lambda: rkd_distance_discrepancy(torch.ones(2, 2), torch.ones(3, 2)),
            "`rkd_distance_discrepancy`: `student` and `teacher` must have the same number of rows",
        ),
        (
            lambda: rkd_distance_discrepancy(torch.ones(2, 2), torch.ones(2, 2), chunk_size=0),
            "`chunk_size` must be an integer >= 1 or None, got 0.",
        ),
    ],
)
def test_errors(call, part):
    with pytest.raises(ValueError) as caught:
        call()
    assert part in str(caught.value)
