"""Datasets whose items carry their position."""

import pytest
from torch.utils.data import DataLoader

from congruence.data import indexed


def test_indexed_adds_the_position() -> None:
    pairs = indexed([("a", 3), ("b", 5, "more")])
    assert len(pairs) == 2
    assert [pairs[0], pairs[-1]] == [("a", 3, 0), ("b", 5, 1)]
    assert indexed(["a", "b"])[1] == ("b", -1, 1)
    assert indexed([{"ids": 1, "labels": 2}])[0] == {"ids": 1, "labels": 2, "index": 0}
    inputs, labels, index = next(iter(DataLoader(indexed([(1.5, 3), (2.5, 5)]), batch_size=2)))
    assert (inputs.tolist(), labels.tolist(), index.tolist()) == ([1.5, 2.5], [3, 5], [0, 1])


def test_what_is_not_map_style_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`indexed`: `dataset` must be a map-style dataset .* got generator"):
        indexed(item for item in (1, 2))
    with pytest.raises(ValueError, match="got 0 parts"):
        indexed([()])[0]
