"""Methods that compare the teacher with what a trained part makes of the student: golden values, decay, saved files."""

from __future__ import annotations

import re

import pytest
import torch
from _harness import golden
from torch import nn

import congruence as cg
from congruence.methods import Probe, Signals, row
from congruence.methods.vkd import OrthogonalLinear
from congruence.models import load_weights, save_weights
from congruence.training import OptimizerOptions
from congruence.training.optim import make_optimizer


def of_golden(key, name, role, **hyperparameters):
    """Build a row for a golden case; return it, the case's arrays and the signals."""
    stored = {field: value.double() for field, value in golden.arrays(name).items()}
    shapes = {(side, role): (stored[f"in_{side[0]}"].shape,) for side in ("student", "teacher")}
    method = row(key).make(**hyperparameters)
    method.build(Probe(shapes, {}, {}, ("student",)))
    student = stored["in_s"].requires_grad_()
    tensors = {("student", "main", role): (student,), ("teacher", "main", role): (stored["in_t"],)}
    return method.double(), stored, Signals(tensors, ("student",))


GOLDEN = {
    "ickd": ("ickd_A", "maps", {}, ("embed_s.conv2d.weight", "embed_s.l2norm.weight", "embed_s.l2norm.bias")),
    "norm": ("norm_A", "maps", {"copies": 2}, ("0.weight", "1.weight", "1.bias")),
    "srd": ("srd_A", "features", {"floor": 0.0}, ("embed.weight", "embed.bias")),
    "pefd": (
        "pefd_A",
        "features",
        {},
        tuple(f"reg{number}.{part}" for number in (1, 2, 3) for part in ("weight", "bias")),
    ),
    "simkd": (
        "simkd_A",
        "maps",
        {},
        tuple(
            f"transfer.{number}.{part}"
            for number, parts in enumerate((("weight",), ("weight", "bias"), ()) * 3)
            for part in parts
        ),
    ),
    "vkd": ("vkd_A", "features", {}, ("projector.weight",)),
}


@pytest.mark.parametrize("key", GOLDEN)
def test_equals_the_golden(key):
    name, role, hyperparameters, parameters = GOLDEN[key]
    method, stored, signals = of_golden(key, name, role, **hyperparameters)
    own = list(method.projectors.parameters())
    for parameter, theirs in zip(own, parameters, strict=True):
        parameter.data.copy_(stored[f"param_{theirs}"])
    value = method.loss(signals)["loss"]
    # The golden matrix of vkd is orthonormal to a rounding of float32, and ours to one of float64.
    rounding = {"rtol": 1e-6, "atol": 1e-8} if key == "vkd" else {"rtol": 1e-10, "atol": 1e-11}
    torch.testing.assert_close(value, stored["loss"], **rounding)
    value.backward()
    torch.testing.assert_close(signals.one("student", role).grad, stored["grad_s"], **rounding)
    for parameter, theirs in zip(own, parameters, strict=True):
        if f"gradparam_{theirs}" in stored and key != "vkd":  # whose golden gradient is by W, unconstrained
            torch.testing.assert_close(parameter.grad, stored[f"gradparam_{theirs}"], rtol=1e-8, atol=1e-9)


def test_the_gaussians_are_those_behind_convolution_norm_and_relu():
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 3, 6, 6), torch.randn(4, 5, 6, 6)
    method = row("wkd_f").make(grid=2, mean_weight=3.0)
    shapes = {("student", "maps"): (student.shape,), ("teacher", "maps"): (teacher.shape,)}
    method.build(Probe(shapes, {}, {}, ("student",)))
    maps = {("student", "main", "maps"): (student,), ("teacher", "main", "maps"): (teacher,)}
    ((convolution, *_),) = method.projectors
    made = torch.einsum("oc,bchw->bohw", convolution.weight[:, :, 0, 0], student)
    mean, variance = made.mean((0, 2, 3), keepdim=True), made.var((0, 2, 3), correction=0, keepdim=True)
    made = ((made - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
    expected = torch.zeros(())
    for rows in (slice(0, 3), slice(3, 6)):
        for columns in (slice(0, 3), slice(3, 6)):
            ours, theirs = (each[:, :, rows, columns].flatten(2) for each in (made, teacher))
            deviations = [(each.var(2) + 1e-5).sqrt() for each in (ours, theirs)]
            expected += (
                3 * (ours.mean(2) - theirs.mean(2)).square().sum() + (deviations[0] - deviations[1]).square().sum()
            )
    torch.testing.assert_close(method.loss(Signals(maps, ("student",)))["loss"], expected / 16)


@pytest.mark.parametrize("key", ["ickd", "norm", "wkd_f"])
def test_rows_are_no_maps(key):
    method = row(key).make()
    shapes = {("student", "maps"): (torch.Size([2, 3]),), ("teacher", "maps"): (torch.Size([2, 5]),)}
    with pytest.raises(ValueError, match=r"compares maps \[B, C, H, W\], got \[2, 3\] of the student and \[2, 5\] of"):
        method.build(Probe(shapes, {}, {}, ("student",)))


def test_maps_whose_sides_are_no_multiples_are_told():
    shapes = {("student", "maps"): (torch.Size([2, 3, 4, 4]),), ("teacher", "maps"): (torch.Size([2, 5, 6, 6]),)}
    with pytest.raises(ValueError, match=re.escape("`student_map` must be of a height and width that are integer")):
        row("norm").make().build(Probe(shapes, {}, {}, ("student",)))


@pytest.mark.parametrize(("key", "word"), [("norm", "copies"), ("pefd", "projectors")])
@pytest.mark.parametrize("value", [0, 1.5])
def test_counts_are_counts(key, word, value):
    with pytest.raises(ValueError, match=rf"`{word}` must be an integer >= 1, got {value}\."):
        cg.Term(key, **{word: value})


def test_the_projectors_of_an_ensemble_stay_different():
    made = of_golden("pefd", "pefd_A", "features")[0]
    first, second, third = (part.weight for part in made.projectors[0])
    assert not torch.allclose(first, second)
    assert not torch.allclose(second, third)


@pytest.mark.parametrize(("ours", "theirs"), [(3, 5), (4, 4), (5, 3)])
def test_an_orthogonal_map_keeps_angles(ours, theirs):
    torch.manual_seed(0)
    part = OrthogonalLinear(ours, theirs).double()
    torch.testing.assert_close(part.matrix(), part.weight, rtol=0, atol=1e-6)  # orthonormal at first
    part.weight.data.copy_(torch.randn(theirs, ours))
    matrix = part.matrix()
    small = matrix.mT @ matrix if ours <= theirs else matrix @ matrix.mT
    torch.testing.assert_close(small, torch.eye(min(ours, theirs)).double())
    part.weight.data.mul_(0.01)
    torch.testing.assert_close(part.matrix(), matrix)  # its length says nothing
    rows = torch.randn(2, ours, dtype=torch.float64)
    torch.testing.assert_close(part(rows), rows @ matrix.mT)


def with_projector():
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Linear(4, n), nn.Tanh(), nn.Linear(n, 3)) for n in (5, 8))
    return cg.Distiller(teacher, student, ["ce", "vkd", "srd"], example=torch.randn(2, 4))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_spares_the_orthogonal_map(name):
    made = with_projector()
    groups = made.parameter_groups()
    spared = made.methods["vkd"].projectors[0].weight
    assert [group["name"] for group in groups] == ["students", "terms", "terms without decay"]
    assert [p is spared for p in groups[2]["params"]] == [True]
    before = {parameter: parameter.detach().clone() for group in groups for parameter in group["params"]}
    for parameter in before:
        parameter.grad = torch.zeros_like(parameter)  # what is left is decay
    make_optimizer(groups, OptimizerOptions(name=name, lr=0.1, weight_decay=0.5)).step()
    for parameter, start in before.items():
        torch.testing.assert_close(parameter.detach(), start if parameter is spared else 0.95 * start)


def test_the_orthogonal_map_is_saved_as_it_is(tmp_path):
    state = with_projector().methods.state_dict()
    assert [name for name in state if name.startswith("vkd.")] == ["vkd.projectors.0.weight"]
    save_weights(state, tmp_path / "terms.safetensors")
    found = load_weights(tmp_path / "terms.safetensors")
    assert all(torch.equal(found[name], value) for name, value in state.items())
