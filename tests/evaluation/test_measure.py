"""A student's test numbers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import congruence as cg
from congruence.data.datasets import split
from congruence.evaluation import embed, measure
from congruence.evaluation.measure import embed_test
from congruence.metrics import inter_class_similarity, intra_class_similarity, retrieval_map, soft_label_entropy
from congruence.models import count_parameters


@pytest.fixture(scope="module")
def splits():
    return cg.data.load("digits")


def model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))


def test_numbers(splits):
    student, teacher = model(0), model(1)
    found = measure(student, splits, teacher=teacher)
    test, train = (
        embed(student, cg.data.loader(part, batch_size=300, shuffle=False)) for part in (splits.test, splits.train)
    )
    assert found.accuracy == cg.metrics.accuracy(test.logits, test.labels, topk=(1,))[0]
    expected = retrieval_map(test.features, test.labels, train.features, train.labels)
    assert found.retrieval_map == pytest.approx(expected, rel=1e-6)
    assert -1 <= found.gpcl <= 1
    assert found.parameters == count_parameters(student)
    assert found.soft_label_entropy == soft_label_entropy(test.logits)
    assert found.intra_class_similarity == pytest.approx(intra_class_similarity(test.features, test.labels))
    assert found.inter_class_similarity == pytest.approx(inter_class_similarity(test.features, test.labels))
    spread = ["soft_label_entropy", "intra_class_similarity", "inter_class_similarity"]
    kernels = ["kernel_transfer_error", "logit_kernel_transfer_error", "cosine_kernel_transfer_error"]
    fidelity = ["gpcl", *kernels, "sliced_wasserstein"]
    own = ["accuracy", "retrieval_map", *fidelity, *spread, "parameters"]
    assert list(found.to_dict())[: len(own)] == own
    of_teacher = embed(teacher, cg.data.loader(splits.test, batch_size=300, shuffle=False))
    taught = of_teacher.features
    raw = cg.metrics.kernel_transfer_error
    assert found.kernel_transfer_error == pytest.approx(raw(test.features, taught))
    assert found.logit_kernel_transfer_error == pytest.approx(raw(test.logits, of_teacher.logits))
    rows = [torch.nn.functional.normalize(side) for side in (test.features, taught)]
    assert found.cosine_kernel_transfer_error == pytest.approx(cg.metrics.kernel_transfer_error(*rows))
    moved = cg.losses.wasserstein_loss(test.features.double(), taught.double()).item()
    assert "wasserstein" not in found.to_dict()
    exact = measure(student, splits, teacher=teacher, exact=True)
    assert exact.wasserstein == pytest.approx(moved)
    assert {key: value for key, value in exact.to_dict().items() if key != "wasserstein"} == found.to_dict()
    assert 0 < found.sliced_wasserstein < exact.wasserstein
    assert measure(student, splits, teacher=student).gpcl == pytest.approx(1)
    assert measure(student, splits, teacher=embed_test(teacher, splits)) == found


def test_retrieval_in_an_open_set_is_among_the_test_images():
    splits = cg.data.load("digits", test_classes=4)
    student = model(0)
    found = measure(student, splits)
    test = embed(student, cg.data.loader(splits.test, batch_size=300, shuffle=False))
    labels = test.labels
    database, query = split.stratified(labels, len(labels) // 2, seed=0, stream=split.DATABASE)
    assert (labels[database].bincount() - labels[query].bincount()).abs().max() <= 1
    halves = (test.features[query], labels[query], test.features[database], labels[database])
    assert found.retrieval_map == retrieval_map(*halves)
    assert 0 < found.retrieval_map < 1
    assert cg.evaluation.measure(student, splits).retrieval_map == found.retrieval_map


def test_a_model_of_the_training_classes_has_no_accuracy_in_an_open_set():
    splits = cg.data.load("digits", test_classes=4)
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, splits.train.classes))
    assert measure(student, splits).accuracy is None
    alone = splits._replace(test=splits.test.subset([0]))
    assert measure(student, alone).retrieval_map is None


def test_without_a_teacher(splits):
    found = measure(model(0), splits)
    assert (found.gpcl, found.cosine_kernel_transfer_error, found.sliced_wasserstein) == (None, None, None)


@pytest.mark.parametrize(
    ("labels", "there"),
    [(torch.zeros(4).long(), (True, False)), (torch.arange(4), (False, True)), (torch.full((4,), -1), (False, False))],
    ids=["one class", "one sample a class", "no labels"],
)
def test_what_no_pair_tells_is_none(splits, labels, there):
    few = dataclasses.replace(splits.test.subset(range(4)), labels=labels)
    found = measure(model(0), splits._replace(test=few))
    assert (found.intra_class_similarity is not None, found.inter_class_similarity is not None) == there
    assert found.soft_label_entropy > 0
