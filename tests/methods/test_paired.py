import pytest
import torch
from torch.nn import functional as F

from congruence.methods import Probe, Signals
from congruence.methods.paired import as_map, paired_maps, paired_shapes


def probe(students, teachers):
    shapes = {("student", "maps"): tuple(map(torch.Size, students))}
    return Probe({**shapes, ("teacher", "maps"): tuple(map(torch.Size, teachers))}, {}, {}, ("student",))


def test_rows_become_maps():
    rows = torch.randn(3, 4)
    assert torch.equal(as_map(rows)[:, :, 0, 0], rows)
    maps = torch.randn(3, 4, 2, 2)
    assert as_map(maps) is maps


def test_shapes_in_pairs():
    shapes = paired_shapes(probe([[2, 3, 4, 4], [2, 5]], [[2, 6, 8, 8], [2, 7]]))
    assert shapes == [((2, 3, 4, 4), (2, 6, 8, 8)), ((2, 5, 1, 1), (2, 7, 1, 1))]
    with pytest.raises(ValueError, match=r"equal on both sides, got 1 of the student and 2 of the teacher\."):
        paired_shapes(probe([[2, 3]], [[2, 3]] * 2))
    with pytest.raises(ValueError, match=r"The layers must be maps \[B, C, H, W\] or rows \[B, C\], got \[2, 9, 3\]\."):
        paired_shapes(probe([[2, 3]], [[2, 9, 3]]))


def test_maps_in_pairs_of_one_size():
    student, teacher, rows = torch.randn(2, 3, 8, 8), torch.randn(2, 6, 4, 4), torch.randn(2, 5)
    tensors = {("student", "main", "maps"): (student, rows), ("teacher", "main", "maps"): (teacher, rows)}
    (first, second), (third, fourth) = paired_maps(Signals(tensors, ("student",)))
    torch.testing.assert_close(first, F.avg_pool2d(student, 2))
    assert second is teacher
    assert torch.equal(third, fourth)
    assert third.shape == (2, 5, 1, 1)
