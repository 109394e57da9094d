import math

import numpy as np
import pytest
import torch

from congruence.core import check

CONSTRAINTS = [
    check.POSITIVE,
    check.NOT_NEGATIVE,
    check.COUNT,
    check.Real(),
    check.Real(low=-1, high=1, closed="both"),
    check.Real(low=0, high=1, closed="high", optional=True),
    check.Choice(("a", "b")),
    check.Choice(("a",), callable_too=True),
    check.Choice(("a",), optional=True),
    check.Flag(),
    check.Weights(),
]


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda c: c.describe())
def test_every_invalid_value_is_refused_with_the_description(constraint):
    assert constraint.invalid()
    for bad in constraint.invalid():
        assert not constraint.accepts(bad)
        with pytest.raises(ValueError) as error:
            check.hyperparameters("f", {"x": constraint}, x=bad)
        assert str(error.value) == f"`f`: `x` must be {constraint.describe()}, got {bad!r}."


@pytest.mark.parametrize(
    ("constraint", "good"),
    [
        (check.POSITIVE, [1e-300, 1, 2.5, np.float32(1)]),
        (check.NOT_NEGATIVE, [0, 0.0, 3]),
        (check.COUNT, [1, np.int64(7)]),
        (check.Real(low=-1, high=1, closed="both"), [-1, 1.0]),
        (check.Real(low=0, high=1, closed="high", optional=True), [1, None]),
        (check.Choice(("a",), callable_too=True), ["a", len]),
        (check.Choice(("a",), optional=True), ["a", None]),
        (check.Flag(), [True, False]),
        (check.Weights(), [None, [1, 0.5], (0, 2), torch.tensor([1.0, 2.0])]),
    ],
)
def test_valid_values_pass(constraint, good):
    assert all(constraint.accepts(value) for value in good)
    check.hyperparameters("f", {"x": constraint}, x=good[0])


def test_infinity_is_not_a_number_to_compute_with():
    assert not check.POSITIVE.accepts(math.inf)


def test_near_lists_close_names_best_first():
    assert check.near("pkd", ["pkt", "kd", "crd"]) == " Did you mean 'kd' or 'pkt'?"
    assert check.near("zzz", ["pkt", "kd"]) == ""


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: check.floating("f", 2, x=[1]), "`f`: `x` must be a tensor, got list."),
        (lambda: check.floating("f", 2, x=torch.ones(1).int()), "a floating-point tensor, got torch.int32."),
        (lambda: check.floating("f", (2, 4), x=torch.ones(3)), "a non-empty 2-D or 4-D tensor, got shape [3]."),
        (lambda: check.floating("f", 2, x=torch.ones(0, 3)), "a non-empty 2-D tensor, got shape [0, 3]."),
        (
            lambda: check.same_rows("f", x=torch.ones(2, 3), y=torch.ones(4)),
            "`f`: `x` and `y` must have the same number of rows, got `x` [2, 3], `y` [4].",
        ),
        (
            lambda: check.same_shape("f", x=torch.ones(2, 3), y=torch.ones(2, 4)),
            "`f`: `x` and `y` must have the same shape, got `x` [2, 3], `y` [2, 4].",
        ),
        (
            lambda: check.same_width("f", x=torch.ones(2, 3), y=torch.ones(5, 4)),
            "`f`: `x` and `y` must have the same width, got `x` [2, 3], `y` [5, 4].",
        ),
        (
            lambda: check.class_labels("f", y=torch.ones(2)),
            "`f`: `y` must be a 1-D integer tensor of class labels, got torch.float32 of shape [2].",
        ),
        (
            lambda: check.class_labels("f", y=torch.ones(2, 1).long()),
            "`f`: `y` must be a 1-D integer tensor of class labels, got torch.int64 of shape [2, 1].",
        ),
        (lambda: check.class_labels("f", 3, y=torch.tensor([0, 3])), "`f`: `y` must be class labels in [0, 3), got 3."),
        (lambda: check.class_labels("f", 3, y=torch.tensor([-2])), "`f`: `y` must be class labels in [0, 3), got -2."),
        (
            lambda: check.class_labels("f", 3, unlabelled=True, y=torch.tensor([-2, 5])),
            "`f`: `y` must be class labels in [0, 3) or negative where there is none, got 5.",
        ),
    ],
)
def test_sentences(call, sentence):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value).endswith(sentence)


def test_what_fits_passes():
    x, labels = torch.ones(2, 3), torch.tensor([-1, 2])
    check.floating("f", (2, 4), x=x)
    check.same_rows("f", x=x, labels=labels)
    check.class_labels("f", 3, unlabelled=True, labels=labels)
    assert check.class_labels("f", labels=labels) is None
