import pytest
import torch
from _harness.losses import seeded

from congruence.geometry import cosine, euclidean
from congruence.metrics import perception_coherence
from congruence.metrics.ranks import anchor_ranks, at_least, at_most, check_rows

MEASURES = {"cosine": cosine, "euclidean": euclidean}


def space(rows=30, dtype=torch.float64):
    return torch.randn(rows, 4, generator=seeded(), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("chunk_size", [None, 1, 3, 100])
def test_ranks_are_counted(name, chunk_size):
    x, anchors = space(), torch.tensor([4, 0, 29, 4, 7])
    distances = MEASURES[name](x)
    expected = [[int((distances[i] <= distances[i, j]).sum()) for j in range(30)] for i in anchors]
    for measure in (name, MEASURES[name]):
        blocks = list(anchor_ranks("f", x, anchors, measure, chunk_size))
        assert torch.cat(blocks).tolist() == expected
        assert max(len(block) for block in blocks) == min(chunk_size or 5, 5)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_they_are_those_of_perception_coherence(name, dtype):
    student, teacher = (x.repeat(2, 1) for x in (space(dtype=dtype)[:, :2], space(dtype=dtype)))
    teacher[:30] *= 1 + 4 * torch.finfo(dtype).eps  # ties by rounding
    ranks = [torch.cat(list(anchor_ranks("f", x, torch.arange(60), name, 7))) for x in (student, teacher)]
    levels = 1 - (ranks[0] - ranks[1]).abs().sum(1).double() / 60**2
    assert torch.equal(levels, perception_coherence(student, teacher, dissimilarity=name))


def test_shares_compare_as_floats_do():
    for count in (7, 100, 1000):
        for k in range(count + 1):
            for share in (k / count, round(k / count, 2), k / count + 1e-9):
                assert at_most(share, count) == max(j for j in range(-1, count + 2) if j / count <= share)
                assert at_least(share, count) == min(j for j in range(count + 2) if j / count >= share)


@pytest.mark.parametrize(
    ("rows", "got"),
    [
        (torch.tensor([0, 5]), "5"),
        (torch.tensor([-1]), "-1"),
        (torch.tensor([[0]]), "torch.int64 of shape [1, 1]"),
        (torch.tensor([0.0]), "torch.float32 of shape [1]"),
        (torch.tensor([True]), "torch.bool of shape [1]"),
        (torch.zeros(0).long(), "torch.int64 of shape [0]"),
        ([0], "list"),
    ],
)
def test_row_errors(rows, got):
    with pytest.raises(ValueError) as error:
        check_rows("f", "anchors", rows, 5)
    assert str(error.value) == f"`f`: `anchors` must be a non-empty 1-D integer tensor of rows in [0, 5), got {got}."
