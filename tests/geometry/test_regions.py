import pytest
import torch
import torch.nn.functional as F

from congruence.geometry.regions import pooled_exactly


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (4, 4), (2, 8), (1, 3), (1, 1)])
@pytest.mark.parametrize("side", [1, 2, 4])
def test_it_is_adaptive_pooling(size, side):
    maps = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(pooled_exactly(maps, side), F.adaptive_avg_pool2d(maps, side))
