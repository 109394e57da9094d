import re

import pytest
import torch
from _harness import golden
from torch import nn
from torch.nn import functional as F

import congruence as cg
from congruence.losses import variational_loss
from congruence.methods import Probe, Signals
from congruence.methods.vid import CHECKS, Variational


def built(shapes, **settings):
    method = Variational(**settings)
    sides = zip(("student", "teacher"), shapes, strict=True)
    method.build(Probe({(side, "maps"): tuple(map(torch.Size, s)) for side, s in sides}, {}, {}, ("student",)))
    return method.double()


def scored(method, students, teachers):
    maps = {("student", "main", "maps"): tuple(students), ("teacher", "main", "maps"): tuple(teachers)}
    return method.loss(Signals(maps, ("student",)))["loss"]


def test_equals_the_golden():
    stored = {key: value.double() for key, value in golden.arrays("vid_A").items()}
    method = built(([stored["in_s"].shape], [stored["in_t"].shape]))
    torch.testing.assert_close(method.raw_variances[0].float(), stored["param_log_scale"].float(), rtol=1e-6, atol=0)
    method.raw_variances[0].data.copy_(stored["param_log_scale"])
    for layer in (0, 2, 4):
        method.regressors[0][layer].weight.data.copy_(stored[f"param_regressor.{layer}.weight"])
    student = stored["in_s"].requires_grad_()
    value = scored(method, [student], [stored["in_t"]])
    torch.testing.assert_close(value, stored["loss"], rtol=1e-10, atol=0)
    value.backward()
    torch.testing.assert_close(student.grad, stored["grad_s"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(method.raw_variances[0].grad, stored["gradparam_log_scale"], rtol=1e-9, atol=1e-12)
    for layer in (0, 2, 4):
        wanted = stored[f"gradparam_regressor.{layer}.weight"]
        torch.testing.assert_close(method.regressors[0][layer].weight.grad, wanted, rtol=1e-9, atol=1e-12)


def test_sums_over_layers_and_takes_rows_and_other_sizes():
    students = [torch.randn(4, 3, 6, 6).double(), torch.randn(4, 5).double()]
    teachers = [torch.randn(4, 2, 3, 3).double(), torch.randn(4, 7).double()]
    method = built(([s.shape for s in students], [t.shape for t in teachers]), variance=2.0, eps=1e-3)
    torch.testing.assert_close(F.softplus(method.raw_variances[1]) + 1e-3, torch.full((7,), 2.0).double())
    pooled = F.avg_pool2d(students[0], 2)
    first = variational_loss(method.regressors[0](pooled), teachers[0], method.raw_variances[0], eps=1e-3)
    mean = method.regressors[1](students[1][:, :, None, None])[:, :, 0, 0]
    second = variational_loss(mean, teachers[1], method.raw_variances[1], eps=1e-3)
    torch.testing.assert_close(scored(method, students, teachers), first + second)


def test_variances_are_trained_and_not_the_students():
    torch.manual_seed(0)
    parts = (nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    student, teacher = nn.Sequential(*parts), nn.Sequential(nn.Conv2d(1, 4, 3), *parts[1:4], nn.Linear(4, 2))
    made = cg.Distiller(teacher, student, [cg.Term("vid")], example=torch.ones(2, 1, 6, 6))
    assert made.layers()["vid"] == {"student maps": ("1",), "teacher maps": ("1",)}
    trained = [p for group in made.parameter_groups() for p in group["params"]]
    method = made.methods["vid"]
    assert any(p is method.raw_variances[0] for p in trained)
    before = method.raw_variances[0].detach().clone()
    made(torch.randn(4, 1, 6, 6)).loss.backward()
    torch.optim.SGD(trained, lr=0.1).step()
    assert not torch.equal(method.raw_variances[0], before)
    assert len(made.student_state_dict()) == 4


def test_hyperparameters_out_of_range():
    for name, constraint in CHECKS.items():
        for bad in constraint.invalid():
            sentence = f"`Variational`: `{name}` must be {constraint.describe()}, got {bad!r}."
            with pytest.raises(ValueError, match=re.escape(sentence)):
                Variational(**{name: bad})
    with pytest.raises(ValueError, match=r"`variance` must be larger than `eps` \(0\.1\), got 0\.1\."):
        Variational(variance=0.1, eps=0.1)
    with pytest.raises(ValueError, match=r"The layers must be maps \[B, C, H, W\] or rows \[B, C\], got \[4, 3, 2\]\."):
        built(([[4, 3, 2]], [[4, 3, 2]]))
