"""Batches of exactly k of each class, and of each superclass."""

import itertools
import logging

import pytest
import torch

from congruence.core import ranks
from congruence.data import ArrayDataset, ClassUniformSampler, SuperclassUniformSampler, loader
from congruence.data.loading.samplers import CLUSTERS, CONSTRAINTS, deal

EVEN = torch.arange(120) % 10
UNEVEN = torch.cat([torch.full((n,), c) for c, n in enumerate([60, 25, 11, 4, 3, 1])] + [torch.full((16,), -1)])
UNEVEN = UNEVEN[torch.randperm(120, generator=torch.Generator().manual_seed(1))]
FEATURES = torch.randn(120, 6, generator=torch.Generator().manual_seed(2))


def held(labels, batch):
    """The classes of a batch and how often each occurs."""
    return labels[batch].unique(return_counts=True)


@pytest.mark.parametrize(("batch_size", "k"), [(8, 1), (8, 2), (8, 4), (20, 4), (24, 8), (12, 3), (20, 20)])
@pytest.mark.parametrize("labels", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_exactly_k_of_each(labels, batch_size, k):
    if batch_size // k > len(labels[labels >= 0].unique()):
        batch_size = 6 * k
    sampler = ClassUniformSampler(labels, batch_size=batch_size, k=k, seed=5)
    sizes = labels[labels >= 0].bincount()
    for batch in itertools.chain(sampler.batches(0), sampler.batches(3)):
        assert batch.shape == (batch_size,)
        classes, counts = held(labels, batch)
        assert len(classes) == batch_size // k
        assert int(classes.min()) >= 0
        assert counts.unique().tolist() == [k]
        for sample, count in zip(*batch.unique(return_counts=True), strict=True):
            size = int(sizes[labels[sample]])
            assert k // size <= int(count) <= -(-k // size)  # different samples, and small classes in equal shares


def test_every_class_is_in_equally_many_batches_and_samples_come_in_turns():
    sampler = ClassUniformSampler(UNEVEN, batch_size=8, k=2, epoch_batches=50)
    plan = torch.stack(sampler.batches(1))
    appearances = torch.zeros(6)
    for batch in plan:
        appearances[held(UNEVEN, batch)[0]] += 1
    assert float(appearances.max() - appearances.min()) <= 1
    drawn = plan.flatten().bincount(minlength=120)
    for label in range(6):
        assert int(drawn[label == UNEVEN].max() - drawn[label == UNEVEN].min()) <= 1


def test_every_sample_once_where_classes_are_even():
    labels = torch.arange(80) % 10
    plan = torch.stack(ClassUniformSampler(labels, batch_size=40, k=4).batches(2))
    assert sorted(plan.flatten().tolist()) == list(range(80))


def test_epochs_are_functions_of_seed_and_epoch():
    before = torch.get_rng_state()
    make = {
        "class": lambda seed: ClassUniformSampler(UNEVEN, batch_size=8, k=2, seed=seed),
        "superclass": lambda seed: SuperclassUniformSampler(FEATURES, batch_size=8, clusters=9, k=2, seed=seed),
    }
    for sampler in make.values():
        plans = [torch.stack(made.batches(epoch)) for made in (sampler(3), sampler(3)) for epoch in (1, 0, 1)]
        assert torch.equal(plans[0], plans[2])
        assert torch.equal(plans[0], plans[3])
        assert not torch.equal(plans[0], plans[1])
        assert not torch.equal(plans[0], torch.stack(sampler(4).batches(1)))
    assert torch.equal(before, torch.get_rng_state())


def test_the_length_of_an_epoch():
    assert len(ClassUniformSampler(EVEN, batch_size=20, k=4)) == 6
    assert len(ClassUniformSampler(UNEVEN, batch_size=20, k=4)) == 5  # 104 are labelled
    assert len(ClassUniformSampler(EVEN, batch_size=200, k=20)) == 1
    assert len(ClassUniformSampler(EVEN, batch_size=20, k=4, epoch_batches=9).batches(0)) == 9
    assert len(SuperclassUniformSampler(FEATURES, batch_size=20)) == 6


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_batches_and_classes(monkeypatch, world):
    images = torch.zeros(120, 1, 4, 4, dtype=torch.uint8)
    dataset = ArrayDataset(images, EVEN, classes=10, mean=[0.5], std=[0.5])
    data = loader(dataset, batch_size=20, sampler=ClassUniformSampler(EVEN, batch_size=20, k=4))
    alone = [index for _, _, index in data.batches(1)]
    monkeypatch.setattr(ranks, "world_size", lambda: world)
    shares = []
    for rank in range(world):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        shares.append([index for _, _, index in data.batches(1)])
        for share in shares[-1]:
            assert held(EVEN, share)[1].tolist() == [4 // world] * 5
    for whole, parts in zip(alone, zip(*shares, strict=True), strict=True):
        assert torch.equal(torch.cat(parts), whole)


def test_an_epoch_resumes_at_any_batch_through_the_loader():
    images = torch.randint(0, 256, (120, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    dataset = ArrayDataset(images, UNEVEN, classes=6, mean=[0.5], std=[0.5])

    def fresh():
        sampler = SuperclassUniformSampler(FEATURES, batch_size=8, k=2, seed=1)
        return loader(dataset, batch_size=8, sampler=sampler, augment=True, seed=1)

    never_killed = list(fresh().batches(2))
    assert len(never_killed) == len(fresh()) == 15
    for start in (1, 7, 15):
        rest = list(fresh().batches(2, start))
        assert len(rest) == 15 - start
        for one, other in zip(rest, never_killed[start:], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_superclasses_are_the_clusters():
    blobs = torch.arange(120) % 8
    sampler = SuperclassUniformSampler(30 * torch.eye(8)[blobs] + FEATURES[:, :1], batch_size=16, clusters=8, seed=3)
    pairs = torch.stack([blobs, sampler.superclasses], 1)
    assert len(pairs.unique(dim=0)) == 8
    for batch in sampler.batches(0):
        assert held(blobs, batch)[1].tolist() == [4] * 4


def test_the_clusters_do_not_move_with_k(caplog):
    """One table of several k is over the same superclasses (Peng et al. 2019, table 7)."""
    caplog.set_level(logging.INFO, logger="congruence")
    made = [SuperclassUniformSampler(FEATURES, batch_size=40, clusters=40, k=k) for k in (1, 2, 4, 8, 20)]
    assert all(torch.equal(sampler.superclasses, made[0].superclasses) for sampler in made)
    assert len(made[0].superclasses.unique()) == 40
    fewer = [text for text in caplog.messages if "fewer than k=" in text]  # 3 samples in one of mean size
    assert [text.partition("k=")[2].split()[0] for text in fewer] == ["4", "8", "20"]
    assert "ask for at most 30" in fewer[0]
    assert len(caplog.messages) == 3


@pytest.mark.parametrize("clusters", [None, CLUSTERS, 121])
def test_clusters_shrink_only_where_one_would_be_empty_and_the_log_says_so(clusters, caplog):
    caplog.set_level(logging.INFO, logger="congruence")
    made = [SuperclassUniformSampler(FEATURES, batch_size=20, clusters=clusters, k=k) for k in (1, 20)]
    for sampler in made:
        assert len(sampler.superclasses.unique()) == 120  # one sample each
    said = f"120 superclasses instead of the requested {clusters or 1000}: there are no more samples."
    assert sum(said in text for text in caplog.messages) == 2
    caplog.clear()
    SuperclassUniformSampler(FEATURES, batch_size=20, clusters=120, k=1)
    assert caplog.messages == []


def test_equal_features_leave_too_few_superclasses():
    with pytest.raises(
        ValueError, match="`features` must be in at least the 4 clusters that a batch holds, got only 1 different"
    ):
        SuperclassUniformSampler(torch.ones(20, 3), batch_size=16)


@pytest.mark.parametrize(
    ("count", "hands", "size"), [(7, 40, 3), (5, 33, 4), (4, 10, 4), (3, 20, 4), (2, 9, 7), (9, 0, 2)]
)
def test_hands_hold_different_cards_and_decks_are_dealt_to_their_end(count, hands, size):
    dealt = deal(count, hands, size, torch.Generator().manual_seed(0))
    assert dealt.shape == (hands, size)
    for hand in dealt:
        counts = hand.bincount(minlength=count)
        assert int(counts.max() - counts.min()) <= 1
    totals = dealt.flatten().bincount(minlength=count)
    assert int(totals.max() - totals.min()) <= 1


def test_any_two_cards_meet_as_often_as_any_others():
    dealt = deal(6, 20_000, 4, torch.Generator().manual_seed(0))
    hands = torch.zeros(20_000, 6).scatter_(1, dealt, 1.0)
    together = (hands.T @ hands)[*torch.triu_indices(6, 6, 1)] / 20_000
    assert float((together - 0.4).abs().max()) < 0.02  # 4·3 / 6·5


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_every_invalid_value_is_refused(name):
    for value in CONSTRAINTS[name].invalid():
        given = {"batch_size": 8, name: value}
        with pytest.raises(ValueError, match=rf"`SuperclassUniformSampler`: `{name}` must be "):
            SuperclassUniformSampler(FEATURES, **given)
        if name != "clusters":
            with pytest.raises(ValueError, match=rf"`ClassUniformSampler`: `{name}` must be "):
                ClassUniformSampler(EVEN, **given)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"batch_size": 10}, r"`batch_size` must be a multiple of k \(4\), got 10"),
        ({"batch_size": 44}, r"a batch of 44 with k=4 holds 11 classes, but the data has 10: choose .* at most 10"),
        ({"batch_size": 8, "labels": EVEN.float()}, "`labels` must be a 1-D integer tensor"),
        ({"batch_size": 8, "labels": -torch.ones(9, dtype=torch.int64)}, "holds 2 classes, but the data has 0"),
    ],
)
def test_misfits_are_one_sentence(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        ClassUniformSampler(**{"labels": EVEN, **given})


def test_clusters_that_do_not_fit():
    with pytest.raises(ValueError, match="`clusters` must be at least the 5 that a batch of 20 with k=4 holds, got 3"):
        SuperclassUniformSampler(FEATURES, batch_size=20, clusters=3)
    with pytest.raises(ValueError, match="`batches`: `epoch` must be an integer >= 0"):
        ClassUniformSampler(EVEN, batch_size=8).batches(-1)
