"""The numbers by which results are published, held against their definitions."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from _harness import layouts
from torch import nn

import congruence as cg
from congruence.data import load, loader, read_reid
from congruence.evaluation import embed, measure
from congruence.evaluation.identification import who_is_who
from congruence.evaluation.own import own_numbers
from congruence.evaluation.protocols import (
    KINDS,
    Classification,
    Coherence,
    ContentBased,
    Identification,
    OpenSet,
    ProtocolData,
    ReIdentification,
)
from congruence.evaluation.published import published
from congruence.evaluation.stored import described
from congruence.metrics import (
    estimate_perception_coherence,
    interpolated_precision_at_k,
    precision_at_k,
    retrieval_map,
)

MSMT = {0: (3, 1), 1: (4, 2), 9: (2, 1)}


@pytest.fixture(scope="module")
def digits():
    splits = load("digits")
    return splits._replace(train=splits.train.subset(range(300)), test=splits.test.subset(range(120)))


@pytest.fixture(scope="module")
def open_digits():
    splits = load("digits", test_classes=4)
    return splits._replace(train=splits.train.subset(range(200)), test=splits.test.subset(range(100)))


def model(inputs: int = 64, classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, classes))


def seen(network, part):
    return embed(network, loader(part, batch_size=64, shuffle=False))


def numbers_of(network, splits, protocol, name="digits", root=None):
    fitted = protocol.fit(ProtocolData(splits, name, root))
    found = measure(network, splits, protocol=fitted).to_dict()
    assert list(found)[-len(fitted.numbers) :] == [number.key for number in fitted.numbers]
    return found


def cosine(a, b):
    return 1 - torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0)


def test_the_kinds():
    kinds = ["classification", "retrieval", "re-identification", "identification", "open-set", "fidelity", "coherence"]
    assert list(KINDS) == kinds
    assert [each.kind for each in KINDS.values()] == kinds


def test_classification(digits):
    found = numbers_of(model(), digits, Classification())
    test = seen(model(), digits.test)
    hits = [int(label) in row.topk(5).indices.tolist() for row, label in zip(test.logits, test.labels, strict=True)]
    assert found["top_5_accuracy"] == pytest.approx(sum(hits) / len(hits))
    fitted = Classification().fit(ProtocolData(digits, "digits"))
    assert measure(model(), digits, protocol=fitted, classifies=False).top_5_accuracy is None
    assert measure(model(classes=3), digits, protocol=fitted).top_5_accuracy is None
    few = load("digits", classes=4)
    assert Classification().fit(ProtocolData(few, "digits")).numbers == ()


def test_retrieval(digits):
    found = numbers_of(model(), digits, ContentBased(ks=(1, 7), query_batch=32))
    test, train = seen(model(), digits.test), seen(model(), digits.train)
    sides = test.features, test.labels, train.features, train.labels
    assert found["retrieval_map"] == retrieval_map(*sides)
    assert found["retrieval_map_published"] == retrieval_map(*sides, interpolation="passalis", query_batch=32)
    for k in (1, 7):
        shares = []
        for row, label in zip(test.features, test.labels, strict=True):
            order = torch.stack([cosine(row, other) for other in train.features]).argsort(stable=True)[:k]
            shares.append(float((train.labels[order] == label).double().mean()))
        assert found[f"retrieval_top_{k}"] == pytest.approx(sum(shares) / len(shares))
        assert found[f"retrieval_top_{k}"] == pytest.approx(precision_at_k(*sides, k=k))
        published = interpolated_precision_at_k(*sides, k=k, query_batch=32)
        assert found[f"retrieval_top_{k}_published"] == published >= found[f"retrieval_top_{k}"]
    default = ContentBased().fit(ProtocolData(digits, "digits"))
    keys = [f"retrieval_top_{k}{end}" for k in (1, 5, 10, 50, 100) for end in ("", "_published")]
    assert [row.key for row in default.numbers][1:] == keys


def test_coherence_is_estimated_from_batches(digits):
    student, teacher = model(), model()
    fitted = Coherence(sizes=(4, 16), seed=3).fit(ProtocolData(digits, "digits"))
    found = measure(student, digits, teacher=teacher, protocol=fitted).to_dict()
    sides = [seen(each, digits.test).features for each in (student, teacher)]
    for size in (4, 16):
        draws = {"batch_size": size, "repeats": 100, "generator": torch.Generator().manual_seed(3)}
        assert found[f"gpcl_batch_{size}"] == pytest.approx(estimate_perception_coherence(*sides, **draws)[0])
    alone = numbers_of(student, digits, Coherence(sizes=(4,)))
    assert alone["gpcl_batch_4"] is None
    count = len(digits.test)
    with pytest.raises(ValueError, match=rf"needs {count + 1} test samples or more \(`sizes`\), .* has {count}\.$"):
        Coherence(sizes=(count + 1,)).fit(ProtocolData(digits, "digits"))
    assert published("gpcl_batch_16").title == "GPCL of batches of 16"


def test_retrieval_in_an_open_set_is_among_the_test_samples(open_digits):
    found = numbers_of(model(), open_digits, ContentBased(ks=(1,)))
    assert 0 < found["retrieval_top_1"] <= 1
    assert 0 < found["retrieval_map_published"] <= 1
    with pytest.raises(ValueError, match=r"needs a database of 51 labelled samples or more \(`ks`\), .* has 50\.$"):
        ContentBased(ks=(51,)).fit(ProtocolData(open_digits, "digits"))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_open_set(open_digits, metric):
    found = numbers_of(model(), open_digits, OpenSet(ks=(1, 3), metric=metric))
    test = seen(model(), open_digits.test)
    hits = {1: 0, 3: 0}
    for i, row in enumerate(test.features):
        apart = {
            j: float(cosine(row, other) if metric == "cosine" else (row - other).double().norm())
            for j, other in enumerate(test.features)
            if j != i
        }
        near = sorted(apart, key=apart.__getitem__)
        for k in hits:
            hits[k] += any(test.labels[j] == test.labels[i] for j in near[:k])
    assert {k: found[f"recall_at_{k}"] for k in hits} == pytest.approx({k: n / 100 for k, n in hits.items()})


def test_re_identification(tmp_path: Path):
    layouts.write_msmt17(tmp_path, MSMT, others=(0, 1, 5))
    data = read_reid("msmt17", tmp_path, size=(12, 6))
    network = model(3 * 12 * 6, 3)
    found = numbers_of(network, data.splits, ReIdentification(ranks=(1, 2)), "msmt17", str(tmp_path))
    query, gallery = seen(network, data.query).features, seen(network, data.gallery).features
    precisions, ranks = [], []
    for row, who, camera in zip(query, data.query_ids, data.query_cameras, strict=True):
        rest = [
            (float((row - other).double().norm()), int(person) == int(who))
            for other, person, by in zip(gallery, data.gallery_ids, data.gallery_cameras, strict=True)
            if not (int(person) == int(who) and int(by) == int(camera))
        ]
        right = [same for _, same in sorted(rest, key=lambda each: each[0])]
        places = [place for place, same in enumerate(right, 1) if same]
        precisions.append(sum((n + 1) / place for n, place in enumerate(places)) / len(places))
        ranks.append(places[0])
    assert found["reid_map"] == pytest.approx(sum(precisions) / len(precisions))
    assert found["rank_1"] == pytest.approx(sum(rank <= 1 for rank in ranks) / 3)
    assert found["rank_2"] == pytest.approx(sum(rank <= 2 for rank in ranks) / 3)
    assert found["accuracy"] is None


def test_the_gallery_is_prepared_as_the_model_takes_the_queries(tmp_path: Path):
    root = layouts.write_market1501(tmp_path, {2: 4, 11: 3})
    data = read_reid("market1501", root, size=(12, 6), validation=0)
    taken = cg.data.ImageInput((0.1,) * 3, (0.7,) * 3, size=(6, 3))
    splits = data.splits.for_models(student=taken)
    fitted = ReIdentification().fit(ProtocolData(splits, "market1501", str(root)))
    network = model(3 * 6 * 3, 2)
    found = measure(network, splits, protocol=fitted)
    gallery = seen(network, data.gallery.for_models(student=taken)).features
    query = seen(network, data.query.for_models(student=taken)).features
    who = data.query_ids, data.gallery_ids, data.query_cameras, data.gallery_cameras
    assert found.reid_map == cg.metrics.reid_evaluate(query, gallery, *who).map


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_identification(digits, metric):
    protocol = Identification(sizes=(5, 40), metric=metric, seed=3)
    found = numbers_of(model(), digits, protocol)
    test = seen(model(), digits.test)
    roles = who_is_who(test.labels, 3)
    people = set(test.labels[roles.mates].tolist())
    assert len(people) == len(roles.mates) == 5
    assert not people & set(test.labels[roles.strangers].tolist())
    assert sorted(torch.cat(roles).tolist()) == list(range(len(test.labels)))
    order = torch.randperm(len(roles.strangers), generator=torch.Generator().manual_seed(3))[:40]

    def apart(a, b):
        return float(cosine(a, b) if metric == "cosine" else (a - b).double().norm())

    for size in (5, 40):
        pool = test.features[roles.strangers[order[:size]]]
        hits = []
        for probe in roles.probes.tolist():
            mate = next(row for row in roles.mates.tolist() if test.labels[row] == test.labels[probe])
            own = apart(test.features[probe], test.features[mate])
            hits.append(all(own < apart(test.features[probe], other) for other in pool))
        assert found[f"rank_1_at_{size}"] == pytest.approx(sum(hits) / len(hits))


def test_distractors_of_a_folder(tmp_path: Path):
    faces = layouts.write_classes(tmp_path / "faces", {"ann": 8, "bob": 8, "cid": 8}, size=(8, 8))
    layouts.write_classes(tmp_path / "strangers", {"a": 3, "b": 9}, size=(8, 8))
    splits = load(faces, size=8, test=0.5, validation=0)
    protocol = Identification(sizes=(10,), distractors=str(tmp_path / "strangers"))
    network = model(3 * 64, 3)
    found = numbers_of(network, splits, protocol, "faces")
    fitted = protocol.fit(ProtocolData(splits, "faces"))
    test, pool = seen(network, splits.test), seen(network, fitted.parts["distractors"]).features
    roles = who_is_who(test.labels, 0, all_known=True)
    assert (len(pool), len(roles.mates), len(roles.strangers)) == (12, 3, 0)
    sides = [part for rows in roles[:2] for part in (test.features[rows], test.labels[rows])]
    draws = torch.Generator().manual_seed(0)
    expected = cg.metrics.identification_rate(*sides[2:], *sides[:2], pool, sizes=(10,), generator=draws)
    assert found["rank_1_at_10"] == expected[10]
    with pytest.raises(ValueError, match=r"needs 13 distractors or more, and the data 'faces' has 12\.$"):
        dataclasses.replace(protocol, sizes=(13,)).fit(ProtocolData(splits, "faces"))
    with pytest.raises(ValueError, match=r"the folder '.*away' of `distractors` is absent\.$"):
        Identification(distractors=str(tmp_path / "away")).fit(ProtocolData(splits, "faces"))


def test_what_does_not_fit_is_one_sentence(digits, open_digits):
    def sentence(protocol, splits, name="digits"):
        with pytest.raises(ValueError) as caught:
            protocol.fit(ProtocolData(splits, name))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    unlabelled = digits._replace(test=dataclasses.replace(digits.test, labels=None))
    for protocol in (Classification(), ContentBased(), OpenSet(), Identification()):
        assert sentence(protocol, unlabelled) == (
            f"The protocol '{protocol.kind}' needs labelled test samples, and the data 'digits' has none."
        )
    assert "of the classes that are trained on" in sentence(Classification(), open_digits)
    assert "(data.test_classes = N holds N classes out)" in sentence(OpenSet(), digits)
    assert "needs queries, a gallery and their cameras, as market1501 and msmt17 have them" in sentence(
        ReIdentification(), digits
    )
    assert "needs 999 distractors or more" in sentence(Identification(sizes=(999,)), digits)
    alone = digits._replace(test=digits.test.subset([0]))
    assert "needs a person (a class) with two test samples or more" in sentence(Identification(), alone)
    bare = digits._replace(train=dataclasses.replace(digits.train, labels=None))
    assert "needs labelled training samples, its database" in sentence(ContentBased(), bare)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ContentBased(ks=()), r"^`ContentBased`: `ks` must be integers >= 1, at least one, got none\.$"),
        (lambda: OpenSet(ks=(1, 0)), r"^`OpenSet`: `ks` must be integers >= 1, at least one, got 0\.$"),
        (lambda: ReIdentification(ranks=(1, 1)), r"`ranks` must be integers that differ, got \[1, 1\]"),
        (lambda: Identification(seed=-1), r"`seed` must be"),
        (lambda: OpenSet(metric="taxi"), r"`metric` must be one of 'cosine', 'euclidean', got 'taxi'"),
        (lambda: ContentBased(query_batch=0), r"`query_batch` must be"),
    ],
)
def test_wrong_settings(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_stored_numbers_have_their_titles():
    rows = {row.key: row for row in described("plan", ["rank_5", "recall_at_2", "of_mine"])}
    assert (rows["rank_5"].title, rows["rank_5"].scale) == ("rank-5 (%)", 100.0)
    assert rows["recall_at_2"].label == "recall@2"
    assert (rows["of_mine"].title, rows["of_mine"].scale) == (None, 1.0)


def test_a_metric_of_ones_own_cannot_take_a_protocols_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(rank_1=len))
    with pytest.raises(ValueError, match="a number is called 'rank_1' already"):
        own_numbers(["mine:rank_1"], trust=True)
