import pytest
import torch
from torch import nn

from congruence.models.norms import BatchStatistics


def test_is_batch_norm_in_training():
    torch.manual_seed(0)
    norm, usual = BatchStatistics(3, eps=1e-3), nn.BatchNorm2d(3, eps=1e-3)
    for part in (norm, usual):
        part.weight.data.copy_(torch.tensor([1.0, 2.0, -1.0]))
        part.bias.data.copy_(torch.tensor([0.0, 1.0, 2.0]))
    maps = torch.randn(4, 3, 2, 2)
    for mode in (True, False):
        torch.testing.assert_close(norm.train(mode)(maps), usual(maps))
    assert sorted(norm.state_dict()) == ["bias", "weight"]


def test_a_single_value_has_no_variance():
    norm = BatchStatistics(2)
    norm.bias.data.copy_(torch.tensor([3.0, 4.0]))
    maps = torch.tensor([5.0, 1e4]).view(1, 2, 1, 1).requires_grad_()
    normalised = norm(maps)
    assert normalised.flatten().tolist() == [3.0, 4.0]
    normalised.sum().backward()
    assert not maps.grad.any()
    assert norm.bias.grad.tolist() == [1.0, 1.0]


def test_ranges():
    with pytest.raises(ValueError, match=r"`BatchStatistics`: `channels` must be an integer >= 1, got 0\."):
        BatchStatistics(0)
    with pytest.raises(ValueError, match=r"`BatchStatistics`: `eps` must be a number > 0, got 0\."):
        BatchStatistics(2, eps=0)
