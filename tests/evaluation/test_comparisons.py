"""Several students beside one teacher, what is left out, and embeddings that are kept."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from _harness.fits import data, net
from torch import nn

import congruence as cg

KEYS = {
    "kl",
    "gpcl_spread",
    "kernel_transfer_error",
    "cosine_kernel_transfer_error",
    "linear_cka",
    "sliced_wasserstein",
    "wasserstein",
    "gaussian_wasserstein",
    "gaussian_kl",
    "mmd",
    *(f"neighbour_overlap_{k}" for k in (1, 10, 100)),
    *(f"asymmetric_retrieval_{name}" for name in ("map", "recall_at_1", "recall_at_5", "recall_at_10")),
    *(
        f"{side}_{key}"
        for side in ("teacher", "student")
        for key in (
            "top_5_accuracy",
            "ece",
            "intra_class_similarity",
            "inter_class_similarity",
            "retrieval_map",
            "retrieval_recall_at_1",
            "retrieval_recall_at_5",
            "retrieval_recall_at_10",
            "knn_accuracy",
            "linear_probe_accuracy",
            "multiply_adds",
            "latency_1_ms",
            "latency_64_ms",
            "peak_memory_mb",
        )
    ),
}


class Counting(nn.Module):
    """A net of images that counts those it sees."""

    def __init__(self, seed, width=12):
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.head = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh()), nn.Linear(width, 10)
        self.fingerprint = f"counting {seed}"
        self.seen = [0]

    def forward(self, images):
        self.seen[0] += len(images)
        return self.head(self.body(images))


@pytest.fixture
def digits():
    return cg.data.load("digits", train_size=130, validation=10, test=60)


def loader_of(part, **options):
    return cg.data.loader(part, batch_size=25, shuffle=False, **options)


def test_all_keys_are_there_and_none_has_a_reason(digits):
    found = cg.compare(Counting(0), Counting(1), loader_of(digits.test))
    values = found.to_dict()
    assert set(values) >= KEYS
    none = {key for key, value in values.items() if value is None}
    assert none == set(found.left_out)
    assert found.left_out["wasserstein"] == "measured with exact=True"
    assert found.left_out["student_knn_accuracy"] == "needs training images (train_loader)"
    assert found.left_out["teacher_latency_1_ms"] == "measured with latency=True"
    assert json.loads(found.to_json()) == values
    assert len(found.classes) == 10
    assert len(found.worst_classes) == 10
    assert len(found.changed) == 20
    assert found.gpcl == pytest.approx(sum(each["phi"] * each["samples"] for each in found.classes) / 60)


def test_several_are_each_alone_to_the_bit(digits):
    teacher = Counting(0)
    students = {
        "same": teacher,
        "small": Counting(1, 5),
        "wide": Counting(2),
        "few": nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
    }
    test, train = loader_of(digits.test), loader_of(digits.train)
    options = {"train_loader": train, "projection": {"small": torch.ones(12, 5).cumsum(1)}}
    found = cg.compare(teacher, students, test, **options)
    assert list(found) == list(students)
    for name, student in students.items():
        own = {**options, "projection": options["projection"].get(name)}
        one = cg.compare(teacher, student, test, **own).to_dict()
        several = found[name].to_dict()
        assert several.keys() == one.keys()
        for key in one:
            if key != "left_out":
                assert several[key] == one[key], key
    assert found["same"].changed == []
    assert found["same"].more["kl"] == 0
    assert found["same"].more["asymmetric_retrieval_map"] == found["same"].more["student_retrieval_map"]
    assert found["small"].more["asymmetric_retrieval_map"] is not None
    assert found["few"].student_accuracy is None
    assert "3 columns, the data 10 classes" in found["few"].left_out["student_accuracy"]
    values = found.to_dict()
    assert json.loads(found.to_json()) == values
    assert values["teacher"]["accuracy"] == found["small"].teacher_accuracy
    assert not any(key.startswith("teacher_") for each in values["students"].values() for key in each)
    lines = found.table().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["teacher", *students]
    assert len({len(line) for line in lines}) == 1


def test_each_model_streams_once(digits):
    models = {name: Counting(seed) for seed, name in enumerate(("a", "b", "c"))}
    teacher = Counting(9)
    cg.compare(teacher, models, loader_of(digits.test))
    for model in (teacher, *models.values()):
        assert 60 <= model.seen[0] <= 60 + 60  # and dry runs that find the layers


def test_kept_embeddings_are_found_again_while_weights_and_data_are_the_same(digits, tmp_path):
    teacher, students = Counting(0), {"a": Counting(1), "b": Counting(2)}
    first = cg.compare(teacher, students, loader_of(digits.train), keep=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    models = (teacher, *students.values())

    def again(part, **changes):
        for model in models:
            model.seen[0] = 0
        found = cg.compare(teacher, students, loader_of(part), keep=tmp_path, **changes)
        return found, [model.seen[0] >= 130 for model in models]

    found, read = again(digits.train)
    assert read == [False, False, False]
    assert found.to_dict() == first.to_dict()
    with torch.no_grad():
        students["b"].head.bias[0] += 0.5
    found, read = again(digits.train)
    assert read == [False, False, True]
    assert found["a"].to_dict() == first["a"].to_dict()
    assert found["b"].more["kl"] != first["b"].more["kl"]
    assert again(digits.train.subset(range(129, -1, -1)))[1] == [True, True, True]
    assert again(digits.train, student_layer={"a": "body.1"})[1] == [False, True, False]


def test_where_data_cannot_be_told_that_is_said(tmp_path, caplog):
    teacher, student = net(0, 7), net(1)
    for _ in range(2):
        caplog.clear()
        cg.compare(teacher, student, [data().tensors], keep=tmp_path / "rows")
        assert (
            f"Embeddings are not kept in '{tmp_path / 'rows'}': the data of the list cannot be identified"
            in caplog.text
        )
    assert not (tmp_path / "rows").exists()


def test_without_labels_logits_or_one_width():
    points, labels = data().tensors
    teacher, student = net(0, 7), net(1)
    found = cg.compare(teacher, student, [points])
    for key in ("classes", "worst_classes", "student_accuracy", "teacher_retrieval_map", "asymmetric_retrieval_map"):
        assert "labelled" in found.left_out[key] or "two images of one class" in found.left_out[key], key
    assert (found.classes, found.worst_classes) == ([], [])
    assert found.changed[0]["label"] is None
    assert found.left_out["mmd"] == "needs features of one width on both sides"
    labelled = cg.compare(teacher, student, [(points, labels)])
    assert (
        labelled.left_out["asymmetric_retrieval_map"] == "needs features of one width, or a projection to the teacher's"
    )
    assert labelled.left_out["student_top_5_accuracy"] == "needs logits of six classes or more"
    assert labelled.more["neighbour_overlap_100"] is None
    bare = cg.compare(nn.Sequential(nn.Linear(6, 5), nn.Tanh()), student, [(points, labels)], teacher_layer="output")
    assert bare.agreement is None
    assert bare.more["kl"] is None
    assert set(bare.to_dict()) == set(labelled.to_dict())


@pytest.mark.parametrize("count", [1, 2, 40])
@pytest.mark.parametrize("equal", [False, True])
def test_few_samples_and_equal_features_give_numbers_that_json_has(count, equal):
    points = torch.ones(count, 6) if equal else data(40).tensors[0][:count]
    batch = (points, torch.arange(count) % 3)
    found = cg.compare(net(0, 7), net(1), [batch], train_loader=[data().tensors])
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert json.loads(text) == found.to_dict()
    none = {key for key, value in found.to_dict().items() if value is None}
    assert none <= set(found.left_out)


def test_training_samples_give_neighbours_and_probes(digits):
    teacher, student = Counting(0), Counting(1)
    asked = {"train_loader": loader_of(digits.train)}
    found = cg.compare(teacher, student, loader_of(digits.test), probe=True, exact=True, **asked)
    rows = {
        name: cg.evaluation.embed(student, loader_of(part))
        for name, part in (("train", digits.train), ("test", digits.test))
    }
    sides = (rows["train"].features, rows["train"].labels, rows["test"].features, rows["test"].labels)
    assert found.more["student_linear_probe_accuracy"] == cg.metrics.linear_probe(*sides)
    assert found.more["student_knn_accuracy"] == pytest.approx(cg.metrics.knn_accuracy(*sides[2:], *sides[:2]))
    theirs = cg.evaluation.embed(teacher, loader_of(digits.test)).features
    assert found.more["wasserstein"] == pytest.approx(cg.metrics.wasserstein_discrepancy(sides[2], theirs))
    without = cg.compare(teacher, student, loader_of(digits.test), **asked)
    assert without.left_out["student_linear_probe_accuracy"] == "measured with probe=True"


def test_costs_are_those_of_costs(digits):
    student = Counting(1)
    found = cg.compare(Counting(0), {"a": student}, loader_of(digits.test), latency=True)["a"]
    alone = cg.evaluation.cost(student, next(iter(loader_of(digits.test)))[0], calls=3)
    for key in ("multiply_adds", "peak_memory_mb"):
        assert found.more[f"student_{key}"] == alone[key] > 0
    assert found.more["student_latency_1_ms"] > 0
    assert not any("latency" in key for key in found.left_out)


def test_costs_that_cannot_be_told_say_why(digits):
    class Pairs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(64, 10)

        def forward(self, images):
            if len(images) > 30:
                raise RuntimeError("at most 30")
            return self.fc(images.flatten(1))

    found = cg.compare(Counting(0), Pairs(), loader_of(digits.test), latency=True)
    assert found.more["student_latency_64_ms"] is None
    assert "at most 30" in found.left_out["student_latency_64_ms"]


@pytest.mark.parametrize(
    ("student", "change", "sentence"),
    [
        ({}, {}, "`compare`: `student` must be a model, or several by name, got an empty mapping"),
        ({"teacher": net(1)}, {}, '`student` must be names other than "teacher" and "", got \'teacher\''),
        ({"a": 3}, {}, r"`student\['a'\]` must be a torch module, got int"),
        ({"a": net(1)}, {"student_layer": {"b": "0"}}, "`student_layer` must be for students among a, got 'b'"),
        ({"a": net(1)}, {"student_layer": "nine"}, r"The a .*'nine'"),
        ({"a": net(1)}, {"projection": torch.ones(2, 2)}, r"`projection` must be of shape \[7, 5\]"),
    ],
)
def test_refused_in_one_sentence(student, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        cg.compare(net(0, 7), student, [data().tensors], **change)


def test_every_number_is_an_attribute_and_a_table_is_of_one_student_too():
    found = cg.compare(net(0), net(1), cg.data.loader(data(), batch_size=8, shuffle=False))
    for key, value in found.to_dict().items():
        assert getattr(found, key) == value
    assert copy.deepcopy(found).to_dict() == pickle.loads(pickle.dumps(found)).to_dict() == found.to_dict()
    with pytest.raises(AttributeError, match=r"has no number 'neighbour_overlap'\. Did you mean 'neighbour_overlap_1"):
        _ = found.neighbour_overlap
    assert [line.split()[1] for line in found.table().splitlines()[2:]] == ["teacher", "student"]
