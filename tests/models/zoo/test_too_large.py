"""Models and heads that no memory holds are one sentence, before anything is made."""

import pytest
import torch

from congruence import models
from congruence.models.heads import Head
from congruence.models.parameters import check_fits


@pytest.mark.parametrize("width", [200_000, 10**9, 2**62])
def test_a_width_that_no_memory_holds(width):
    with pytest.raises(
        ValueError, match=r"^`build`: `width` must be of weights that fit into this machine's .* GB, got "
    ):
        models.build("cnn3", classes=10, width=width)
    with pytest.raises(ValueError, match=r"^`build`: `classes` must be of weights that fit into "):
        models.build("resnet8", classes=2**62)
    with pytest.raises(
        ValueError, match=r"^`Head`: `width` must be of weights that fit into this machine's .* GB, got "
    ):
        Head(10**6, width)


def test_what_fits_is_made_to_the_same_bits():
    torch.manual_seed(0)
    first = models.build("cnn3", classes=2000)
    torch.manual_seed(0)
    second = models.build("cnn3", classes=2000)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    check_fits("f", "x", 1, 1e6)
