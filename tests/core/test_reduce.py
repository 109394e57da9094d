import pytest
import torch

from congruence.core.reduce import reduce


def test_modes():
    values = torch.tensor([1.0, 2.0, 6.0])
    assert reduce("f", values, "none") is values
    assert reduce("f", values, "mean").item() == 3
    assert reduce("f", values, "sum").item() == 9


@pytest.mark.parametrize("bad", ["batchmean", None, 1])
def test_unknown_mode_is_an_error(bad):
    with pytest.raises(ValueError) as error:
        reduce("f", torch.ones(2), bad)
    assert str(error.value) == f"`f`: `reduction` must be one of 'none', 'mean', 'sum', got {bad!r}."
