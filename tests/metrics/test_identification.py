import pytest
import torch
from _harness.losses import seeded
from _harness.memory import largest_tensor

from congruence.geometry import dissimilarity_blocks
from congruence.metrics import identification, identification_rate


def faces(pool=60):
    generator = seeded()
    people = torch.randn(6, 5, generator=generator)
    probe_ids, gallery_ids = torch.arange(12) % 6, torch.tensor([0, 1, 1, 2, 3, 3, 3, 4, 9])
    places = torch.cat([people, torch.zeros(4, 5)])
    probe, gallery = (
        places[ids] + 0.7 * torch.randn(len(ids), 5, generator=generator) for ids in (probe_ids, gallery_ids)
    )
    return probe, probe_ids, gallery, gallery_ids, torch.randn(pool, 5, generator=generator)


def slow(probe, probe_ids, gallery, gallery_ids, pool, metric):
    (near,), (far,) = (dissimilarity_blocks(probe, others, metric, len(probe)) for others in (gallery, pool))
    hits = [
        all(near[i, j] < value for value in far[i].tolist())
        for i in range(len(probe))
        for j in range(len(gallery))
        if probe_ids[i] == gallery_ids[j]
    ]
    return sum(hits) / len(hits)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("entries", [1, 200, 2**20])
def test_equals_a_slow_loop_over_the_first_of_the_shuffled_pool(metric, entries, monkeypatch):
    monkeypatch.setattr(identification, "_CHUNK_ENTRIES", entries)
    data = faces()
    rates = identification_rate(*data, sizes=(60, 1, 7), metric=metric, generator=seeded(3))
    order = torch.randperm(60, generator=seeded(3))
    expected = {size: slow(*data[:4], data[4][order[:size]], metric) for size in (60, 1, 7)}
    assert rates == expected
    assert list(rates) == [60, 1, 7]
    assert rates[1] > rates[7] > rates[60] > 0


def test_sizes_are_powers_of_ten_up_to_the_pool():
    for pool, sizes in ((60, [10]), (100, [10, 100]), (1005, [10, 100, 1000]), (7, [7])):
        assert list(identification_rate(*faces(pool), generator=seeded())) == sizes


def test_other_identities_of_the_gallery_take_no_part_and_a_tie_is_lost():
    probe, ids = torch.zeros(1, 1), torch.tensor([1])
    gallery, gallery_ids = torch.tensor([[2.0], [1.0]]), torch.tensor([1, 3])
    for distractor, rate in ((3.0, 1.0), (2.0, 0.0), (1.5, 0.0)):
        pool = torch.tensor([[distractor]])
        rates = identification_rate(
            probe, ids, gallery, gallery_ids, pool, sizes=(1,), metric="euclidean", generator=seeded()
        )
        assert rates == {1: rate}


def test_a_model_that_says_nothing_finds_nobody():
    data = faces()
    blank = [torch.ones_like(x) if x.is_floating_point() else x for x in data]
    assert identification_rate(*blank, sizes=(1,), generator=seeded()) == {1: 0.0}


def test_it_draws_from_its_generator_alone():
    data, before = faces(), torch.get_rng_state()
    first, again, other = (identification_rate(*data, sizes=(3, 9), generator=seeded(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(before, torch.get_rng_state())


def test_memory_is_linear_in_the_pool(monkeypatch):
    monkeypatch.setattr(identification, "_CHUNK_ENTRIES", 2000)
    data = faces(3000)
    probes = data[0].repeat(50, 1), data[1].repeat(50)
    assert largest_tensor(lambda: identification_rate(*probes, *data[2:], generator=seeded())) <= 5 * 3000


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sizes": (10, 61)}, "`sizes` must be an integer >= 1 and <= 60, got 61."),
        ({"sizes": (0,)}, "`sizes` must be an integer >= 1 and <= 60, got 0."),
        ({"sizes": ()}, "`sizes` must be a sequence of integers, got none."),
        ({"metric": "l2"}, "`metric` must be one of 'cosine', 'euclidean', got 'l2'."),
        ({"generator": None}, "`generator` must be a torch.Generator, got NoneType."),
        ({"gallery_ids": torch.full((9,), 50)}, "`gallery_ids` must be identities of which a probe has one, got none."),
        ({"distractors": torch.zeros(60, 2)}, "got `probe` [12, 5], `gallery` [9, 5], `distractors` [60, 2]."),
    ],
)
def test_errors(change, sentence):
    names = ("probe", "probe_ids", "gallery", "gallery_ids", "distractors")
    settings = {**dict(zip(names, faces(), strict=True)), "generator": seeded(), **change}
    with pytest.raises(ValueError) as error:
        identification_rate(**settings)
    assert str(error.value).startswith("`identification_rate`: ")
    assert str(error.value).endswith(sentence)
