"""Methods that read the networks' own classifiers: class maps and regions."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import congruence as cg
from congruence.losses import class_attention_loss, region_logits, scale_decoupled_loss


def network(width, classes=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
    )


IMAGES, LABELS = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3)), torch.arange(6) % 4


def distiller(key, student=None, teacher=None, **words):
    student, teacher = student or network(3), teacher or network(5, seed=1)
    return cg.Distiller(teacher, student, [cg.Term(key, **words)], example=IMAGES[:2])


def test_the_mean_of_a_class_map_is_the_logit():
    made = distiller("catkd", resolution=1)
    (student, teacher), images = (made.student, made.teacher.module), IMAGES
    expected = (student(images) - teacher(images)).square().mean()
    torch.testing.assert_close(made(images, LABELS).terms["catkd"], expected)


def test_class_maps_are_pooled_and_brought_to_length_one():
    made = distiller("catkd", resolution=2, normalize=True)
    maps = []
    for model in (made.student, made.teacher.module):
        features = model[1](model[0](IMAGES))
        maps.append(torch.einsum("cd,bdhw->bchw", model[4].weight, features) + model[4].bias[:, None, None])
    expected = class_attention_loss(*maps, resolution=2, normalize=True)
    torch.testing.assert_close(made(IMAGES, LABELS).terms["catkd"], expected)


@pytest.mark.parametrize("words", [{}, {"base": "dkd", "beta": 8.0}, {"base": "nkd", "complementary_weight": 1.0}])
def test_regions_are_those_of_the_functions(words):
    made = distiller("sdd", **words)
    regions = [
        region_logits(model[1](model[0](IMAGES)), model[4].weight, model[4].bias)
        for model in (made.student, made.teacher.module)
    ]
    out = made(IMAGES, LABELS)
    torch.testing.assert_close(out.terms["sdd"], scale_decoupled_loss(*regions, LABELS, **words))
    out.loss.backward()
    assert made.student[4].weight.grad.any()
    assert made.student[0].weight.grad.any()


@pytest.mark.parametrize("key", ["catkd", "sdd"])
def test_the_classifiers_are_not_the_method_s_own(key):
    made = distiller(key)
    assert not list(made.methods.parameters())
    assert not made.methods.state_dict()
    assert {name for name, _ in made.student.named_parameters()} == set(made.student_state_dict())


@pytest.mark.parametrize("key", ["catkd", "sdd"])
def test_two_passes_are_one(key):
    found = []
    for micro_batch in (None, 4):
        made = distiller(key).double()
        made(IMAGES.double(), LABELS, micro_batch=micro_batch).loss.backward()
        found.append([parameter.grad for parameter in made.student.parameters()])
    torch.testing.assert_close(found[1], found[0])


def two_heads():
    model = network(3)
    model.insert(4, nn.Linear(3, 3))
    return model


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"student": network(3, classes=5)}, "got 5 of the student and 4 of the teacher."),
        ({"student_classifier": "5"}, "a Linear of 3 features, as its map has channels, '5' is not one: name it"),
        ({"student_layer": {"maps": ["0", "1"]}, "teacher_layer": {"maps": ["0", "1"]}}, "needs one map [B, C, H, W]"),
        (
            {"teacher": nn.Sequential(*network(5)[:4], nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4))},
            "got 4 of the student and 7 of the teacher.",
        ),
    ],
)
@pytest.mark.parametrize("key", ["catkd", "sdd"])
def test_what_has_no_such_classifier_is_told(key, words, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        distiller(key, **words)


def test_a_classifier_may_be_named():
    made = distiller("catkd", student=two_heads(), student_classifier="5")
    assert made.methods["catkd"]._classifiers.student is made.student[5]
    assert distiller("catkd", student=two_heads()).methods["catkd"]._classifiers.student.out_features == 4


def test_a_cached_teacher_is_a_live_one(tmp_path):
    data = torch.utils.data.TensorDataset(IMAGES, LABELS)
    train = cg.data.loader(data, batch_size=3, seed=0, view_cycle=1)
    cache = cg.TeacherCache(network(5, seed=1), train, tmp_path / "cache", dtype="float32")
    found = []
    for teacher in (network(5, seed=1), cache):
        made = cg.Distiller(teacher, network(3), ["sdd", "catkd"], example=IMAGES[:2])
        found.append([made(*batch).loss.item() for batch in train.batches(0)])
    assert found[0] == pytest.approx(found[1], rel=1e-6)
