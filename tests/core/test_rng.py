import random

import numpy as np
import pytest
import torch

from congruence.core import rng


def test_keyed_uniform_depends_on_the_key_alone():
    samples = torch.tensor([5, 9, 2])
    draws = rng.keyed_uniform(7, 3, samples, 4)
    assert draws.shape == (3, 4)
    assert draws.dtype == torch.float64
    before = torch.get_rng_state()
    assert torch.equal(rng.keyed_uniform(7, 3, samples[1:2], 4), draws[1:2])
    assert torch.equal(rng.keyed_uniform(7, 3, samples, 2), draws[:, :2])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("other", [(8, 3, 0), (7, 4, 0), (7, 3, 1)])
def test_seed_epoch_and_stream_each_change_every_draw(other):
    samples = torch.arange(100)
    seed, epoch, stream = other
    changed = rng.keyed_uniform(seed, epoch, samples, 3, stream=stream)
    assert (changed != rng.keyed_uniform(7, 3, samples, 3)).all()


def test_keyed_uniform_is_uniform():
    draws = rng.keyed_uniform(0, 0, torch.arange(20000), 5)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = torch.histc(draws.float(), 10, 0, 1)
    assert (counts - 10000).abs().max() < 500  # five standard deviations
    assert torch.corrcoef(draws.T).fill_diagonal_(0).abs().max() < 0.03


def test_keyed_generator():
    first, again, other = (torch.rand(4, generator=rng.keyed_generator(*key)) for key in ((1, 2), (1, 2), (2, 1)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def test_state_is_restored_and_can_be_saved(tmp_path):
    with rng.untouched():
        rng.seed_everything(3)
        torch.randn(3), random.gauss(0, 1), np.random.randn()  # noqa: NPY002
        torch.save(rng.get_state(), tmp_path / "state.pt")
        first = draw()
        rng.set_state(torch.load(tmp_path / "state.pt", weights_only=True))
        assert draw() == first
        rng.seed_everything(3)
        assert draw() != first


def test_untouched_even_after_an_error():
    before = torch.get_rng_state()
    expected = random.getstate(), np.random.get_state(legacy=True)[1].tolist()  # noqa: NPY002

    def draw_and_fail():
        with rng.untouched():
            draw()
            raise KeyError

    with pytest.raises(KeyError):
        draw_and_fail()
    assert torch.equal(before, torch.get_rng_state())
    assert (random.getstate(), np.random.get_state(legacy=True)[1].tolist()) == expected  # noqa: NPY002
