"""Samples of any map-style dataset."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from congruence.core.rng import get_state
from congruence.data import indexed
from congruence.data.loading.draws import Draws, Request, take_apart


class Noisy:
    """Draws from all three global generators."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        noise = [torch.rand(()).item(), random.random(), np.random.rand()]  # noqa: NPY002
        return torch.tensor([float(index), *noise], dtype=torch.float64), index % 2


@pytest.mark.parametrize(
    ("item", "inputs", "label"),
    [
        (5, 5, None),
        ((5, 1), 5, 1),
        ([5, 1], 5, 1),
        ((5, 1, "more"), 5, 1),
        ((5,), 5, None),
        ({"ids": 5, "labels": 1}, {"ids": 5}, 1),
        ({"ids": 5, "label": 1}, {"ids": 5}, 1),
        ({"ids": 5}, {"ids": 5}, None),
    ],
)
def test_items_are_taken_apart(item: object, inputs: object, label: object) -> None:
    assert take_apart(item) == (inputs, label)


def test_draws_depend_on_their_key_alone() -> None:
    def draw(samples: list[int], *, seed: int = 0, epoch: int = 0, view: str = "main") -> torch.Tensor:
        return Draws(Noisy(), (view,), seed)[Request(epoch, torch.tensor(samples))].views[view]

    whole = draw([0, 1, 2, 3, 4, 5])
    assert torch.equal(draw([4, 2]), whole[[4, 2]])
    for other in (draw([2], seed=1), draw([2], epoch=1), draw([2], view="weak")):
        assert (other[0, 1:] != whole[2, 1:]).all()
    assert len(whole[:, 1:].unique()) == 18


def test_global_generators_are_left_as_they_were() -> None:
    before = get_state()
    drawn = Draws(Noisy(), ("main", "other"), 0)[Request(0, torch.tensor([1, 2]))]
    assert drawn.labels.tolist() == [1, 0]
    after = get_state()
    assert torch.equal(before["torch"], after["torch"])
    assert before["python"] == after["python"]
    assert torch.equal(before["numpy"][1], after["numpy"][1])


def test_they_are_left_so_by_an_error_too() -> None:
    before = torch.get_rng_state()
    with pytest.raises(IndexError):
        Draws([1.0], ("main",), 0)[Request(0, torch.tensor([0, 3]))]
    assert torch.equal(before, torch.get_rng_state())


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
    with pytest.raises(ValueError, match="an empty item"):
        take_apart(())
