import re

import pytest
import torch
from torch import nn

import congruence as cg
from congruence.losses import heterogeneous_kd_loss
from congruence.methods.hkd import CHECKS, HeterogeneousKd


def net(seed, width):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3))


LAYERS = {"student_layer": ["0", "2", "4"], "teacher_layer": ["0", "2", "4"]}


def scored(epoch, **settings):
    student, teacher, inputs = net(0, 5), net(1, 7), torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    made = cg.Distiller(teacher, student, [cg.Term("hkd", **LAYERS, **settings)], example=inputs[:2])
    made.begin_epoch(epoch)
    layers = [[model[: k + 1](inputs) for k in (0, 2, 4)] for model in (student, teacher)]
    return made(inputs).loss, list(zip(*layers, strict=True))


@pytest.mark.parametrize("epoch", [0, 3])
def test_the_earlier_layers_count_less_from_epoch_to_epoch(epoch):
    loss, layers = scored(epoch)
    weights = (100 * 0.7**epoch, 100 * 0.7**epoch, 1)
    expected = 0.0
    for weight, (student, teacher) in zip(weights, layers, strict=True):
        for kernel in ("cosine", "student_t"):
            value = heterogeneous_kd_loss(student, teacher, kernel=kernel, divergence="jeffreys")
            expected = expected + weight * value
    torch.testing.assert_close(loss, expected)


def test_other_kernels_and_weights():
    settings = {"kernels": ["rbf"], "divergence": "kl", "earlier_weight": 2.0, "earlier_decay": 0.5, "eps": 1e-3}
    loss, layers = scored(1, **settings)
    values = [heterogeneous_kd_loss(s, t, kernel="rbf", divergence="kl", eps=1e-3) for s, t in layers]
    torch.testing.assert_close(loss, values[0] + values[1] + values[2])


def test_one_layer_by_default():
    student, inputs = net(0, 5), torch.randn(8, 6)
    made = cg.Distiller(net(1, 7), student, [cg.Term("hkd")], example=inputs[:2])
    assert made.layers()["hkd"] == {"student maps": ("input:4",), "teacher maps": ("input:4",)}
    made.begin_epoch(0)
    made(inputs).loss.backward()
    assert student[0].weight.grad.any()
    assert student[4].weight.grad is None


def maps(**settings):
    """A term over the maps of two networks, random images, and what the networks make of them."""
    torch.manual_seed(0)
    student, teacher = (
        nn.Sequential(
            nn.Conv2d(1, w, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(side), nn.Flatten(), nn.Linear(w * side**2, 3)
        )
        for w, side in ((4, 2), (6, 3))
    )
    images = torch.randn(16, 1, 8, 8)
    term = cg.Term("hkd", student_layer="2", teacher_layer="2", **settings)
    made = cg.Distiller(teacher, student, [term], example=images[:2])
    made.begin_epoch(0)
    return made(images).loss, student[:3](images), teacher[:3](images)


def both(student, teacher):
    kernels = ("cosine", "student_t")
    values = [heterogeneous_kd_loss(student, teacher, kernel=kernel, divergence="jeffreys") for kernel in kernels]
    return sum(values)


def test_maps_are_flattened_as_the_authors_have_them():
    flat, student, teacher = maps()
    torch.testing.assert_close(flat, both(student.flatten(1), teacher.flatten(1)))
    averaged, student, teacher = maps(positions="averaged")
    torch.testing.assert_close(averaged, both(student.mean((2, 3)), teacher.mean((2, 3))))
    assert averaged < 0.5 * flat
    coarse, student, teacher = maps(grid=2)
    pooled = nn.functional.adaptive_avg_pool2d(teacher, 2)
    torch.testing.assert_close(coarse, both(student.flatten(1), pooled.flatten(1)))
    with pytest.raises(ValueError, match=r"`HeterogeneousKd`: `grid` must be None for `positions='averaged'`, got 2"):
        HeterogeneousKd(grid=2, positions="averaged")


def test_padding_counts_for_nothing():
    """Tokens of padding are zeros: how far a batch is padded changes no distance and no cosine."""
    method = HeterogeneousKd()
    assert method.needs.padded
    tokens = torch.randn(4, 5, 3)
    longer = torch.cat([tokens, torch.zeros(4, 2, 3)], 1)
    rows = {("student", "main", "maps"): (tokens,), ("teacher", "main", "maps"): (longer,)}
    assert method.loss(cg.methods.Signals(rows, ("student",)))["loss"].abs() < 1e-9


def test_layers_are_in_pairs():
    layers = {**LAYERS, "teacher_layer": "4"}
    with pytest.raises(ValueError, match="must be equal on both sides, got 3 of the student and 1 of the teacher"):
        cg.Distiller(net(1, 7), net(0, 5), [cg.Term("hkd", **layers)], example=torch.ones(2, 6))


def test_hyperparameters_out_of_range():
    for name, constraint in CHECKS.items():
        for bad in constraint.invalid():
            sentence = f"`HeterogeneousKd`: `{name}` must be {constraint.describe()}, got {bad!r}."
            with pytest.raises(ValueError, match=re.escape(sentence)):
                HeterogeneousKd(**{name: bad})
    for bad in ("cosine", [], ["cosine", "linear"], 3):
        with pytest.raises(ValueError, match=r"`HeterogeneousKd`: `kernels` must be a list of kernels, each one of"):
            HeterogeneousKd(kernels=bad)
