"""Heads of a given teacher: embeddings and classifiers."""

import copy

import pytest
import torch
from torch import nn

from congruence import Distiller, Term
from congruence.models import Taps, WithClassifier, WithHead, build, fit_classifier, fit_head
from congruence.models.heads import CHECKS, Head


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


LABELS = torch.arange(300) % 5
FEATURES = torch.randn(5, 12, generator=generator(1))[LABELS] + 0.7 * torch.randn(300, 12, generator=generator(2))
FEATURES = FEATURES * torch.linspace(0.1, 3.0, 12) + 5.0


def scatter_ratio(embedding):
    """Spread within classes over spread in all: small where classes are told apart."""
    means = torch.stack([embedding[c == LABELS].mean(0) for c in range(5)])
    return float((embedding - means[LABELS]).square().sum() / (embedding - embedding.mean(0)).square().sum())


def test_cross_entropy_tells_classes_apart_and_does_not_collapse():
    head = fit_head(FEATURES, LABELS, 32)
    embedding = head(FEATURES)
    assert embedding.shape == (300, 32)
    assert scatter_ratio(embedding) < 0.7 * scatter_ratio(FEATURES)
    centred = nn.functional.normalize(embedding - embedding.mean(0))
    assert float((centred @ centred.T).mean()) < 0.1
    means = torch.stack([embedding[c == LABELS].mean(0) for c in range(5)])
    assert float((torch.cdist(embedding, means).argmin(1) == LABELS).float().mean()) > 0.9


@pytest.mark.parametrize("labels", [None, torch.full((300,), -1)])
def test_without_labels_it_is_principal_components(labels):
    values = FEATURES.double()
    embedding = fit_head(values, labels, 4)(values)
    torch.testing.assert_close(embedding.mean(0), torch.zeros(4, dtype=torch.float64))
    variances = torch.linalg.eigvalsh(values.T.cov(correction=0)).flip(0)[:4]
    torch.testing.assert_close(embedding.T.cov(correction=0), torch.diag(variances))
    whole = fit_head(values, labels, 12)(values)
    torch.testing.assert_close(torch.cdist(whole, whole), torch.cdist(values, values), atol=1e-6, rtol=1e-9)


def test_unlabelled_samples_are_left_out():
    labels = torch.where(torch.arange(300) < 100, LABELS, -1)
    some, few = fit_head(FEATURES, labels, 8), fit_head(FEATURES[:100], LABELS[:100], 8)
    assert torch.equal(some.weight, few.weight)


@pytest.mark.parametrize("labels", [None, LABELS])
def test_it_is_frozen_keyed_by_its_seed_and_leaves_the_generator_alone(labels):
    before = torch.get_rng_state()
    with torch.no_grad():
        one = fit_head(FEATURES, labels, 8, seed=1)
    torch.rand(3)
    other = fit_head(FEATURES, labels, 8, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in one.parameters())
    assert not one.training
    torch.set_rng_state(before)
    fit_head(FEATURES, labels, 8)
    assert torch.equal(before, torch.get_rng_state())
    if labels is not None:
        assert not torch.equal(one.weight, fit_head(FEATURES, labels, 8, seed=2).weight)


@pytest.mark.parametrize("example", [FEATURES.double(), FEATURES.bfloat16(), torch.ones(6, 12)])
def test_dtype_is_kept_and_constant_features_are_finite(example):
    head = fit_head(example, LABELS[: len(example)], 3)
    assert head(example).dtype == example.dtype
    assert bool(torch.isfinite(head(example)).all())


@pytest.mark.parametrize("name", CHECKS)
def test_every_invalid_value_is_refused(name):
    for value in CHECKS[name].invalid():
        with pytest.raises(ValueError, match=rf"`fit_head`: `{name}` must be "):
            fit_head(FEATURES, None, **{"width": 2, name: value})


def test_misfits_are_one_sentence():
    with pytest.raises(ValueError, match=r"`width` must be at most 12 without labels .* got 13"):
        fit_head(FEATURES, None, 13)
    with pytest.raises(ValueError, match="`features` must be finite"):
        fit_head(torch.full((4, 2), torch.inf), None, 1)
    with pytest.raises(ValueError, match="must have the same number of rows"):
        fit_head(FEATURES, LABELS[:9], 4)
    with pytest.raises(ValueError, match="`labels` must be a 1-D integer tensor"):
        fit_head(FEATURES, LABELS.float(), 4)


def teacher_and_images():
    torch.manual_seed(0)
    return build("resnet8", classes=10, in_channels=1).eval(), torch.randn(4, 1, 8, 8)


def test_the_teacher_answers_as_before_and_the_embedding_is_a_layer():
    teacher, images = teacher_and_images()
    both = copy.deepcopy(WithHead(teacher, fit_head(torch.randn(50, 64), None, 16), example=images)).eval()
    assert torch.equal(both(images), teacher(images))
    taps = Taps(both, name="teacher")
    taps.probe(images, training=False)
    assert (taps.default("features"), taps.default("logits")) == ("input:model.fc", "model.fc")
    taps.require(["embed", "input:model.fc"])
    read = taps.read(images)[1]
    assert torch.equal(read["embed"], both.embed(read["input:model.fc"]))
    assert set(both.state_dict()) == {*(f"model.{key}" for key in teacher.state_dict()), "embed.weight", "embed.bias"}


def test_maps_are_averaged_and_named_inputs_pass():
    teacher, images = teacher_and_images()
    both = WithHead(teacher, Head(16, 3), example=images, layer="layer1")
    assert torch.equal(both(images=images), teacher(images))
    with pytest.raises(ValueError, match="`head` must be one that takes the 64 features of 'layer3', got one of 16"):
        WithHead(teacher, Head(16, 3), example=images, layer="layer3")


def test_a_student_learns_the_embedding():
    teacher, images = teacher_and_images()
    head = fit_head(torch.randn(50, 64), None, 16)
    student = build("resnet8", classes=10, in_channels=1, embedding_dim=16)
    both = WithHead(teacher, head, example=images)
    terms = [Term("kd"), Term("mimic", teacher_layer="embed")]
    distiller = Distiller(both, student, terms, example=images)
    before = head.weight.clone()
    distiller(images).loss.backward()
    assert float(student.embed.weight.grad.abs().sum()) > 0
    assert head.weight.grad is None
    assert torch.equal(before, head.weight)


def objective(classifier, features, labels, penalty):
    """The mean cross-entropy and the penalty, of weights on the features as the definition scales them."""
    scale = (features - features.mean(0)).square().mean().sqrt()
    losses = [nn.functional.cross_entropy(classifier(row), label) for row, label in zip(features, labels, strict=True)]
    return torch.stack(losses).mean() + penalty / 2 * (classifier.weight * scale).square().sum()


def test_a_classifier_is_the_minimum_of_its_definition_at_one_of_the_penalties():
    features, labels = FEATURES.double(), torch.where(torch.arange(300) % 3 == 0, -1, LABELS)
    classifier = fit_classifier(features, labels, 5)
    known = labels >= 0
    slopes = []
    for penalty in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        free = copy.deepcopy(classifier).requires_grad_()
        gradients = torch.autograd.grad(objective(free, features[known], labels[known], penalty), free.parameters())
        slopes.append(max(float(gradient.abs().max()) for gradient in gradients))
    assert sorted(slopes)[0] < 1e-4 < sorted(slopes)[1]
    assert float((classifier(features).argmax(1) == LABELS).float().mean()) > 0.9


def test_where_features_say_nothing_the_classifier_is_unsure():
    noise = torch.randn(200, 50, generator=generator(3))
    probabilities = fit_classifier(noise, torch.arange(200) % 4, 4)(noise).softmax(1)
    assert float(probabilities.max()) < 0.5  # a fit without a penalty is sure of each of its samples


def test_a_classifier_does_not_depend_on_shift_scale_or_unlabelled_samples():
    expected = fit_classifier(FEATURES.double(), LABELS, 5)
    moved = fit_classifier(FEATURES.double() * 100 - 7, LABELS, 5)
    torch.testing.assert_close(moved(FEATURES.double() * 100 - 7), expected(FEATURES.double()), atol=1e-4, rtol=1e-4)
    more = torch.cat([FEATURES, torch.randn(40, 12)]).double()
    both = fit_classifier(more, torch.cat([LABELS, torch.full((40,), -1)]), 5)
    assert torch.equal(both.weight, expected.weight)


def test_a_classifier_of_few_samples_and_of_classes_without_any():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    classifier = fit_classifier(features, torch.tensor([2, 0]), 4)
    assert classifier(features).argmax(1).tolist() == [2, 0]
    before = torch.get_rng_state()
    with torch.no_grad():
        again = fit_classifier(features, torch.tensor([2, 0]), 4)
    assert torch.equal(again.weight, classifier.weight)
    assert torch.equal(before, torch.get_rng_state())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    constant = fit_classifier(torch.ones(6, 3), torch.arange(6) % 2, 2)
    assert bool(torch.isfinite(constant(torch.ones(6, 3))).all())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"features": torch.full((300, 12), torch.nan)}, "`features` must be finite"),
        ({"labels": LABELS[:9]}, "must have the same number of rows"),
        ({"labels": LABELS.float()}, "`labels` must be a 1-D integer tensor"),
        ({"classes": 4}, "`labels` must be below 4, got 4"),
        ({"classes": 0}, "`classes` must be "),
        ({"labels": torch.zeros(300, dtype=torch.int64)}, "`labels` must be of two classes or more, got 1"),
        ({"labels": torch.full((300,), -1)}, "`labels` must be of two classes or more, got 0"),
    ],
)
def test_what_no_classifier_can_be_fitted_on_is_one_sentence(changes, sentence):
    given = {"features": FEATURES, "labels": LABELS, "classes": 5, **changes}
    with pytest.raises(ValueError, match=f"^`fit_classifier`: {sentence}|{sentence}"):
        fit_classifier(**given)


def test_a_teacher_with_a_classifier_gives_its_logits():
    teacher, images = teacher_and_images()
    both = copy.deepcopy(WithClassifier(teacher, nn.Linear(64, 3), example=images)).eval()
    taps = Taps(both, name="teacher")
    taps.probe(images, training=False)
    assert (taps.default("features"), taps.default("logits")) == ("input:classifier", "classifier")
    taps.require(["input:classifier"])
    output, read = taps.read(images)
    plain = Taps(teacher, name="plain")
    plain.probe(images, training=False)
    plain.require(["input:fc"])
    assert torch.equal(read["input:classifier"], plain.read(images)[1]["input:fc"])
    assert torch.equal(output, both.classifier(read["input:classifier"]))
    maps = WithClassifier(teacher, nn.Linear(16, 3), example=images, layer="layer1")
    assert maps(images).shape == (4, 3)
    with pytest.raises(ValueError, match="`WithClassifier`: `classifier` must be one that takes the 64 features of"):
        WithClassifier(teacher, nn.Linear(16, 3), example=images)
