import re

import pytest
import torch
from _harness import golden
from torch import nn
from torch.nn import functional as F

import congruence as cg
from congruence.losses import batch_norm_margin, overhaul_loss
from congruence.methods import Probe, Signals
from congruence.methods.ofd import Overhaul
from congruence.models import build


def test_equals_the_golden():
    stored = {key: value.double() for key, value in golden.arrays("ofd_A").items()}
    shapes = {(side, "maps"): (stored[f"in_{side[0]}"].shape,) for side in ("student", "teacher")}
    teacher = nn.Sequential(nn.BatchNorm2d(32), nn.ReLU())
    about = golden.description("ofd_A")["hyperparameters"]
    teacher[0].weight.data.copy_(torch.tensor(about["bn_weight"]))
    teacher[0].bias.data.copy_(torch.tensor(about["bn_bias"]))
    method = Overhaul()
    method.build(Probe(shapes, {("teacher", "maps"): ("input:1",)}, {"teacher": teacher}, ("student",)))
    method.double()
    torch.testing.assert_close(method.margin0, stored["in_margin"], rtol=1e-5, atol=1e-6)
    method.margin0.copy_(stored["in_margin"])
    connector = method.connectors[0]
    connector[0].weight.data.copy_(stored["param_c.0.weight"])
    connector[1].weight.data.copy_(stored["param_c.1.weight"])
    connector[1].bias.data.copy_(stored["param_c.1.bias"])
    student = stored["in_s"].requires_grad_()
    maps = {("student", "main", "maps"): (student,), ("teacher", "main", "maps"): (stored["in_t"],)}
    value = method.loss(Signals(maps, ("student",)))["loss"] * len(student)  # the term is divided by B
    torch.testing.assert_close(value, stored["loss"], rtol=1e-10, atol=0)
    value.backward()
    torch.testing.assert_close(student.grad, stored["grad_s"], rtol=1e-8, atol=1e-9)
    for layer, name in (("0", "weight"), ("1", "weight"), ("1", "bias")):
        gradient = connector.get_parameter(f"{layer}.{name}").grad
        torch.testing.assert_close(gradient, stored[f"gradparam_c.{layer}.{name}"], rtol=1e-8, atol=1e-8)


LAYERS = [f"input:layer{k}.0.relu" for k in (1, 2, 3)]


def test_deeper_layers_count_more_and_larger_maps_are_pooled():
    torch.manual_seed(0)
    teacher, student, images = build("resnet8", classes=3), build("cnn3", classes=3), torch.randn(4, 3, 32, 32)
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -1, 1)
    term = cg.Term("ofd", student_layer=["bn1", "bn2", "bn3"], teacher_layer=LAYERS)
    assert term.weight == 0.001
    made = cg.Distiller(teacher, student, [term], example=images[:2])
    method = made.methods["ofd"]
    for k in range(3):
        norm = teacher.get_submodule(f"layer{k + 1}.0.bn2")
        torch.testing.assert_close(method.get_buffer(f"margin{k}"), batch_norm_margin(norm.weight, norm.bias))
    captured = made.capture(images)
    expected = 0.0
    for k, (ours, theirs) in enumerate(zip(("bn1", "bn2", "bn3"), LAYERS, strict=True)):
        s, t = captured.tensors["student", "main", ours], captured.tensors["teacher", "main", theirs]
        size = min(s.shape[2], t.shape[2])
        s, t = F.adaptive_avg_pool2d(s, size), F.adaptive_avg_pool2d(t, size)
        value = overhaul_loss(method.connectors[k](s), t, method.get_buffer(f"margin{k}"), reduction="sum")
        expected = expected + value / 4 * 0.5 ** (2 - k)
    out = made.score(captured)
    torch.testing.assert_close(out.terms["ofd"], expected)
    out.loss.backward()
    assert student.conv1.weight.grad.any()
    assert method.connectors[0][0].weight.grad.any()
    assert not any("margin" in name or "connector" in name for name in made.student_state_dict())


def made_with(margins, path="input:1"):
    torch.manual_seed(0)
    tail = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    student = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), *tail, nn.Linear(3, 2))
    teacher = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), *tail, nn.Linear(4, 2))
    term = cg.Term("ofd", margins=margins, student_layer="0", teacher_layer=path)
    return cg.Distiller(teacher, student, [term], example=torch.ones(2, 1, 6, 6))


def test_margins_may_be_given():
    margins = [[-1.0, -2.0, 0.0, -0.5]]
    assert made_with(margins).methods["ofd"].margin0.tolist() == margins[0]


@pytest.mark.parametrize(
    ("margins", "sentence"),
    [
        (None, "no batch norm of 4 channels feeds the teacher's layer 'input:1'"),
        ([[-1.0]], "`margins` must be 4 numbers for 'input:1', got 1."),
        ([[-1.0] * 4] * 2, "`margins` must be one list for each of the 1 layers, got 2."),
        ([], "`margins` must be a list of finite numbers for each layer, or None, got []."),
        ([[float("nan")] * 4], "`margins` must be a list of finite numbers for each layer, or None, got [[nan,"),
        (["a"], "`margins` must be a list of finite numbers for each layer, or None, got ['a']."),
        (3.0, "`margins` must be a list of finite numbers for each layer, or None, got 3.0."),
    ],
)
def test_margins_that_do_not_fit(margins, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        made_with(margins)


def test_layers_must_be_named():
    with pytest.raises(ValueError, match=r"has no default layer for 'maps': name some with student_layer=, of its"):
        cg.Distiller(build("resnet8", classes=3), build("cnn3", classes=3), ["ofd"], example=torch.ones(2, 3, 32, 32))
