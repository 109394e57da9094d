"""The regressor of hints: its shapes, its golden, and that the distiller trains and keeps it."""

import pytest
import torch
from _harness import golden
from torch import Size, nn

import congruence as cg
from congruence.losses import hint_loss
from congruence.methods import Probe, Signals
from congruence.methods.fitnet import FitNet, regressor
from congruence.models.norms import BatchStatistics


def conv(seed, width, classes=3):
    torch.manual_seed(seed)
    first, second = nn.Conv2d(2, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, classes))


def images(count=6):
    return torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def distiller(method, **layers):
    return cg.Distiller(
        conv(0, 5), conv(1, 3), [cg.Term(method, weight=1.0, name="fitnet", **layers)], example=images(2)
    )


@pytest.mark.parametrize(
    ("student", "teacher", "kind", "kernel", "stride"),
    [
        ((8, 8), (8, 8), nn.Conv2d, (1, 1), (1, 1)),
        ((8, 8), (4, 4), nn.Conv2d, (3, 3), (2, 2)),
        ((6, 10), (3, 5), nn.Conv2d, (3, 3), (2, 2)),
        ((4, 4), (8, 8), nn.ConvTranspose2d, (4, 4), (2, 2)),
        ((7, 8), (5, 3), nn.Conv2d, (3, 6), (1, 1)),
        ((8, 4), (4, 4), nn.Conv2d, (5, 1), (1, 1)),
        ((3, 4), (7, 4), nn.Conv2d, (1, 1), (1, 1)),
    ],
)
def test_the_convolution_follows_the_sizes(student, teacher, kind, kernel, stride):
    made = regressor(Size([2, 3, *student]), Size([2, 5, *teacher]))
    convolution, norm, relu = made
    assert (type(convolution), convolution.kernel_size, convolution.stride) == (kind, kernel, stride)
    assert convolution.bias is not None
    assert (type(norm), norm.weight.shape, type(relu)) == (BatchStatistics, (5,), nn.ReLU)
    maps = torch.randn(4, 3, *student, requires_grad=True)
    regressed = made(maps)
    if student[0] >= teacher[0] or 2 * student[0] == teacher[0]:
        assert regressed.shape == (4, 5, *teacher)
    value = hint_loss(regressed, torch.randn(4, 5, *teacher))
    value.backward()
    assert maps.grad.any()


@pytest.mark.parametrize("side", [1, 2])
def test_one_sample_of_one_position_is_finite(side):
    maps = torch.randn(1, 3, side, side, requires_grad=True)
    value = hint_loss(regressor(maps.shape, Size([1, 5, 1, 1]))(maps), torch.ones(1, 5, 1, 1))
    value.backward()
    assert value.item() == 1.0  # a single value has no variance: the regressor gives its bias, 0
    assert maps.grad.eq(0).all()


def test_rows_and_tokens_have_a_linear_one():
    assert regressor(Size([2, 3]), Size([2, 5]))(torch.ones(4, 3)).shape == (4, 5)
    assert regressor(Size([2, 7, 3]), Size([2, 7, 5]))(torch.ones(4, 7, 3)).shape == (4, 7, 5)
    with pytest.raises(
        ValueError, match=r"`FitNet` compares maps with maps.* got \[2, 3\] of the student and \[2, 5, 4"
    ):
        regressor(Size([2, 3]), Size([2, 5, 4, 4]))


@pytest.mark.parametrize(
    ("dtype", "suffix", "prefixes", "rtol"),
    [(torch.float64, "", ("grad_", "gradparam_"), 1e-10), (torch.float32, "_f32", ("gradf32_", None), 2e-5)],
)
def test_equals_the_golden(dtype, suffix, prefixes, rtol):
    stored = golden.arrays("fitnet_hint_A")
    student, teacher = (stored[f"in_{side}"].to(dtype) for side in "st")
    student.requires_grad_()
    keys = [("student", "maps"), ("teacher", "maps")]
    shapes = dict(zip(keys, ((student.shape,), (teacher.shape,)), strict=True))
    method = FitNet()
    method.build(Probe(shapes, {key: ("layer",) for key in keys}, {}, ("student",)))
    method.to(dtype)
    convolution, norm, _ = method.regressors[0]
    parts = {
        "conv.weight": convolution.weight,
        "conv.bias": convolution.bias,
        "bn.weight": norm.weight,
        "bn.bias": norm.bias,
    }
    with torch.no_grad():
        for name, parameter in parts.items():
            parameter.copy_(stored[f"param_{name}"])
    tensors = {("student", "main", "maps"): (student,), ("teacher", "main", "maps"): (teacher,)}
    value = method.loss(Signals(tensors, ("student",)))["loss"]
    torch.testing.assert_close(value, stored[f"loss{suffix}"].to(dtype), rtol=rtol, atol=0)
    value.backward()
    gradients = {f"{prefixes[0]}s": student.grad}
    if prefixes[1]:
        gradients |= {f"{prefixes[1]}{name}": parameter.grad for name, parameter in parts.items()}
    for key, gradient in gradients.items():
        expected = stored[key].to(dtype)
        atol = rtol * max(expected.abs().max().item(), 1e-6)
        torch.testing.assert_close(gradient, expected, rtol=rtol, atol=atol)


def test_the_regressor_is_trained_and_not_the_students_own():
    made = distiller(FitNet())
    made(images()).loss.backward()
    owned = {id(p) for group in made.parameter_groups() for p in group["params"]}
    parts = list(made.methods["fitnet"].regressors.parameters())
    assert all(id(p) in owned and p.grad is not None for p in parts)
    assert sorted(made.student_state_dict()) == sorted(conv(1, 3).state_dict())
    again = distiller(FitNet())
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(images()).loss, made(images()).loss)


def test_several_layers_are_summed_and_the_default_is_the_last_map():
    assert distiller(FitNet()).layers()["fitnet"] == {"student maps": ("2",), "teacher maps": ("2",)}
    both = distiller(FitNet(), student_layer=["1", "2"], teacher_layer=["1", "2"])
    total = both(images()).loss
    values = []
    for number, layer in enumerate(("1", "2")):
        one = distiller(FitNet(), student_layer=layer, teacher_layer=layer)
        one.methods["fitnet"].regressors[0].load_state_dict(both.methods["fitnet"].regressors[number].state_dict())
        values.append(one(images()).loss)
    torch.testing.assert_close(total, sum(values))
    with pytest.raises(ValueError, match="got 2 of the student and 1 of the teacher"):
        distiller(FitNet(), student_layer=["1", "2"], teacher_layer="1")


def test_embeddings_are_named():
    made = distiller(FitNet(), student_layer="input:5", teacher_layer="input:5")
    assert [list(p.shape) for p in made.methods["fitnet"].parameters()] == [[10, 6], [10]]
    assert torch.isfinite(made(images()).loss)
