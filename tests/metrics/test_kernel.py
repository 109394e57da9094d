import math

import pytest
import torch
from _harness.memory import peak_bytes

from congruence.metrics import (
    cosine_kernel_transfer_error,
    kernel_transfer_bound,
    kernel_transfer_error,
    landmark_transfer_error,
    nystrom_error,
    smallest_landmark_eigenvalue,
)

ROWS = (13, 40)  # below and above twice the widths' sum: with the kernels, and without


def embeddings(rows=13, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, width, generator=generator, dtype=torch.float64) for width in (3, 5))


def landmarks():
    return embeddings(4, seed=1)


@pytest.mark.parametrize("rows", ROWS)
def test_error_is_the_definition(rows):
    student, teacher = embeddings(rows)
    ours, theirs = student @ student.T, teacher @ teacher.T
    above = math.sqrt(
        sum((a - b) ** 2 for a, b in zip(ours.flatten().tolist(), theirs.flatten().tolist(), strict=True))
    )
    expected = above / math.sqrt(sum(value**2 for value in theirs.flatten().tolist()))
    for chunk in (None, 1, 4, 13, 100):
        error = kernel_transfer_error(student, teacher, chunk_size=chunk)
        assert isinstance(error, float)
        assert error == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("rows", ROWS)
def test_the_error_of_cosines_leaves_lengths_free(rows):
    student, teacher = embeddings(rows)
    sides = [side / side.norm(dim=1, keepdim=True) for side in (student, teacher)]
    expected = kernel_transfer_error(*sides)
    assert cosine_kernel_transfer_error(student, teacher) == pytest.approx(expected, rel=1e-12)
    lengths = torch.rand(rows, 1, generator=torch.Generator().manual_seed(2)).double() + 0.5
    assert cosine_kernel_transfer_error(lengths * student, teacher) == pytest.approx(expected, rel=1e-12)
    assert cosine_kernel_transfer_error(lengths * teacher, teacher) < 1e-15
    assert kernel_transfer_error(lengths * teacher, teacher) > 0.1
    with pytest.raises(ValueError, match="`cosine_kernel_transfer_error`: `student` and `teacher` must have the same"):
        cosine_kernel_transfer_error(student[1:], teacher)


@pytest.mark.parametrize("rows", ROWS)
def test_a_rotated_student_has_no_error_and_a_copy_exactly_none(rows):
    student, teacher = embeddings(rows)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)).double()).Q
    assert kernel_transfer_error(teacher @ rotation, teacher) < 2e-15
    assert kernel_transfer_error(teacher, teacher, chunk_size=3) == 0.0
    assert landmark_transfer_error(teacher, teacher, teacher[:2], teacher[:2], chunk_size=3) == 0.0
    assert kernel_transfer_error(student, teacher) > 0.1


@pytest.mark.parametrize("rows", ROWS)
def test_a_small_error_beside_a_large_offset_is_kept(rows):
    _, teacher = embeddings(rows)
    teacher = 100 + teacher
    student = teacher * (1 + 1e-9)
    assert kernel_transfer_error(student, teacher) == pytest.approx(2e-9, rel=1e-4)


def test_no_block_is_larger_than_the_chunk(monkeypatch):
    student, teacher = embeddings()
    sizes = []
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: sizes.append(len(a)) or product(a, b))
    kernel_transfer_error(student, teacher, chunk_size=4)
    assert sizes == [4, 4, 4, 4, 4, 4, 1, 1]


@pytest.mark.parametrize("widths", [(16, 16), (3, 60)])
def test_memory_is_the_chunk_s_alone_where_there_are_many_samples(widths):
    student, teacher = (torch.randn(20_000, width).half() for width in widths)
    w, chunk = sum(widths), 1000
    for call in (
        lambda: kernel_transfer_error(student, teacher, chunk_size=chunk),
        lambda: landmark_transfer_error(student, teacher, student[:50], teacher[:50], chunk_size=chunk),
    ):
        few = 2**14  # Python objects
        assert peak_bytes(call) <= 40 * (chunk + w) * w + few < 20_000 * w * 8


def test_memory_with_few_samples_is_linear_in_them():
    student, teacher = (torch.randn(1390, width) for width in (300, 400))
    peak = peak_bytes(lambda: kernel_transfer_error(student, teacher, chunk_size=50))
    assert peak <= 8 * 1390 * (4 * 50 + 700) < 1390 * 1390 * 8


@pytest.mark.parametrize("rows", ROWS)
def test_what_is_not_a_number_stays_so(rows):
    student, teacher = embeddings(rows)
    student[2, 1] = math.nan
    assert math.isnan(kernel_transfer_error(student, teacher))
    assert math.isnan(kernel_transfer_error(student, student))


def test_landmark_estimate_is_the_definition():
    student, teacher = embeddings()
    ours, theirs = landmarks()
    gap = (student @ ours.T - teacher @ theirs.T).norm() / (teacher @ teacher.T).norm()
    for chunk in (None, 1, 5):
        error = landmark_transfer_error(student, teacher, ours, theirs, chunk_size=chunk)
        assert error == pytest.approx(gap.item(), rel=1e-13)


@pytest.mark.parametrize("rows", [4, *ROWS])
def test_landmarks_that_are_all_samples_give_the_error_itself(rows):
    student, teacher = embeddings(rows)
    error = landmark_transfer_error(student, teacher, student, teacher)
    assert error == pytest.approx(kernel_transfer_error(student, teacher), rel=1e-13)


@pytest.mark.parametrize("rows", ROWS)
def test_a_teacher_of_zeros(rows):
    student, teacher = embeddings(rows)
    assert kernel_transfer_error(student, 0 * teacher) == math.inf
    assert kernel_transfer_error(0 * student, 0 * teacher) == 0.0


@pytest.mark.parametrize("rows", ROWS)
def test_half_precision_is_computed_in_float64(rows):
    student, teacher = (side.bfloat16() for side in embeddings(rows))
    assert kernel_transfer_error(student, teacher) == kernel_transfer_error(student.double(), teacher.double())


def test_smallest_eigenvalue():
    marks, _ = landmarks()
    assert smallest_landmark_eigenvalue(marks[:2]) == pytest.approx(torch.linalg.svdvals(marks[:2])[-1].item() ** 2)
    assert abs(smallest_landmark_eigenvalue(marks)) < 1e-12


def test_the_bound_is_its_definition_and_holds():
    student, teacher = embeddings(30)
    labels = torch.arange(30) % 4
    ours, theirs = (torch.stack([rows[labels == c].mean(0) for c in range(4)]) for rows in (student, teacher))
    longest = max(rows.norm(dim=1).max().item() for rows in (student, teacher))
    away = apart = 0.0
    for i, label in enumerate(labels.tolist()):
        away += (student[i] - ours[label]).norm().item() + (teacher[i] - theirs[label]).norm().item()
        for j in range(30):
            apart += abs((ours[label] @ student[j] - theirs[label] @ teacher[j]).item())
    parts = kernel_transfer_bound(student, teacher, ours, theirs, labels)
    assert parts == (pytest.approx(30 * longest * away), pytest.approx(apart))
    assert (student @ student.T - teacher @ teacher.T).norm().item() <= sum(parts)


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: kernel_transfer_error(torch.ones(2, 2), torch.ones(3, 2)), "got `student` [2, 2], `teacher` [3, 2]."),
        (
            lambda: kernel_transfer_error(torch.ones(2, 2), torch.ones(2, 2), chunk_size=0),
            "`kernel_transfer_error`: `chunk_size` must be an integer >= 1 or None, got 0.",
        ),
        (
            lambda: landmark_transfer_error(*embeddings(), *reversed(landmarks())),
            "`landmark_transfer_error`: `student` and `student_landmarks` must have the same width",
        ),
        (lambda: smallest_landmark_eigenvalue(torch.ones(3)), "must be a non-empty 2-D tensor, got shape [3]."),
        (
            lambda: smallest_landmark_eigenvalue(torch.full((2, 2), 1e200, dtype=torch.float64)),
            "`landmarks` must be small enough for products in float64, got entries of up to 1e+200.",
        ),
        (
            lambda: kernel_transfer_bound(*embeddings(2), *landmarks(), torch.tensor([0, 4])),
            "`kernel_transfer_bound`: `assignment` must be class labels in [0, 4), got 4.",
        ),
    ],
)
def test_errors(call, part):
    with pytest.raises(ValueError) as caught:
        call()
    assert part in str(caught.value)


@pytest.mark.parametrize("marks", [1, 3, 5])
def test_nystrom_error_is_that_of_the_whole_matrices(marks):
    draw = torch.Generator().manual_seed(marks)
    x, d = (torch.randn(rows, 4, generator=draw, dtype=torch.float64) for rows in (9, marks))
    kernel, part = x @ x.T, x @ d.T
    expected = (kernel - part @ torch.linalg.pinv(d @ d.T, hermitian=True, rtol=1e-10) @ part.T).norm() / kernel.norm()
    for chunk_size in (None, 2):
        assert nystrom_error(x, d, chunk_size=chunk_size) == pytest.approx(float(expected), abs=1e-9)
    assert nystrom_error(x, torch.zeros(2, 4)) == pytest.approx(1.0)
    assert nystrom_error(0 * x, d) == 0.0


def test_nystrom_error_names_what_does_not_fit():
    with pytest.raises(ValueError, match="`nystrom_error`: `embeddings` and `landmarks` must have the same width"):
        nystrom_error(torch.ones(3, 2), torch.ones(3, 4))
