import logging

import pytest
import torch
from _harness.losses import seeded
from torch.nn import functional as F

from congruence.metrics import linear_probe


def samples(rows, seed, noise=1.0):
    """Four classes around the corners of a square, in a space stretched and shifted."""
    generator = seeded(seed)
    labels = torch.randint(0, 4, (rows,), generator=generator)
    centres = torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [-1.0, -1.0, 0.0]])
    x = centres[labels] + noise * torch.randn(rows, 3, generator=generator)
    return x * torch.tensor([1.0, 100.0, 0.01]) + 50, labels


def minimum(x, labels, regularization):
    """Newton-free: full-batch L-BFGS of the stated objective in torch."""
    classes = int(labels.max()) + 1
    weight = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, labels, reduction="sum")
        loss = loss + regularization / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


@pytest.mark.parametrize("regularization", [1.0, 300.0])
def test_answers_are_those_of_the_stated_minimum(regularization):
    (x, labels), (test, test_labels) = samples(200, 0), samples(500, 1)
    centre, deviation = x.double().mean(0), x.double().std(0, correction=0)
    weight, bias = minimum((x.double() - centre) / deviation, labels, regularization)
    answers = ((test.double() - centre) / deviation @ weight.T + bias).argmax(1)
    expected = (answers == test_labels).double().mean().item()
    assert 0.4 < expected < 0.95
    accuracy = linear_probe(x, labels, test, test_labels, regularization=regularization)
    assert accuracy == pytest.approx(expected, abs=1 / 500)


def test_by_default_the_regularization_is_one():
    data = *samples(60, 0), *samples(400, 1)
    assert linear_probe(*data) == linear_probe(*data, regularization=1.0)


def test_shift_and_scale_of_a_feature_change_nothing():
    (x, labels), (test, test_labels) = samples(100, 0), samples(400, 1)
    accuracy = linear_probe(x.double(), labels, test.double(), test_labels)
    moved = (value.double() * torch.tensor([3.0, -0.1, 1e4]) - 7 for value in (x, test))
    assert linear_probe(next(moved), labels, next(moved), test_labels) == pytest.approx(accuracy, abs=1 / 400)


def test_a_feature_that_never_changes_says_nothing():
    (x, labels), (test, test_labels) = samples(100, 0), samples(400, 1)
    blank, other = torch.full((100, 1), 0.1), torch.randn(400, 1, generator=seeded(2))
    with_blank = linear_probe(torch.cat([x, blank], 1), labels, torch.cat([test, other], 1), test_labels)
    assert with_blank == linear_probe(x, labels, test, test_labels)


def test_two_classes_and_any_names():
    (x, labels), (test, test_labels) = samples(200, 0, 0.2), samples(200, 1, 0.2)
    first, second = labels < 2, test_labels < 2
    accuracy = linear_probe(x, 9 * first.long() + 4, test, 9 * second.long() + 4)
    assert accuracy > 0.99
    assert linear_probe(x, 9 * first.long() + 4, test, torch.full_like(test_labels, 2)) == 0.0


def test_too_few_steps_are_told(caplog):
    with caplog.at_level(logging.WARNING, "congruence"):
        linear_probe(*samples(100, 0), *samples(10, 1), steps=1)
    assert caplog.messages == ["`linear_probe`: not converged after 1 steps."]
    caplog.clear()
    linear_probe(*samples(100, 0), *samples(10, 1))
    assert not caplog.messages


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"test": torch.zeros(10, 2)}, "the same width, got `train` [20, 3], `test` [10, 2]."),
        ({"train_labels": torch.zeros(3).long()}, "got `train` [20, 3], `train_labels` [3]."),
        ({"train_labels": torch.zeros(20).long()}, "`train_labels` must be of two classes or more, got one."),
        (
            {"train": torch.full((20, 3), 1e200, dtype=torch.float64).index_fill(0, torch.arange(5), -1e200)},
            "`train` must be small enough for squares in float64, got entries of up to 1e+200.",
        ),
        ({"test": torch.full((10, 3), torch.nan)}, "`test` must be finite, got NaN or infinity."),
        ({"regularization": 0}, "`regularization` must be a number > 0, got 0."),
        ({"steps": 0}, "`steps` must be an integer >= 1, got 0."),
    ],
)
def test_errors(change, sentence):
    names = ("train", "train_labels", "test", "test_labels")
    good = dict(zip(names, (*samples(20, 0), *samples(10, 1)), strict=True))
    with pytest.raises(ValueError) as error:
        linear_probe(**{**good, **change})
    assert str(error.value).startswith("`linear_probe`: ")
    assert str(error.value).endswith(sentence)
