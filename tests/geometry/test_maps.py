import pytest
import torch
import torch.nn.functional as F

from congruence.geometry import pooled_alike


@pytest.mark.parametrize(
    ("first", "second", "common"),
    [((8, 8), (4, 4), (4, 4)), ((5, 6), (3, 3), (3, 3)), ((4, 6), (8, 3), (4, 3)), ((4, 4), (4, 4), (4, 4))],
)
def test_the_larger_is_pooled_to_the_smaller(first, second, common):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, c, *size, generator=generator) for c, size in ((3, first), (5, second))]
    for source, pooled in zip(maps, pooled_alike(*maps), strict=True):
        assert pooled.shape == (*source.shape[:2], *common)
        torch.testing.assert_close(pooled, F.adaptive_avg_pool2d(source, common))
        assert (pooled is source) == (source.shape[2:] == common)
