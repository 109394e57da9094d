import torch
from _harness import golden
from torch.nn import functional as F

import congruence as cg
from congruence.methods import Probe, Signals
from congruence.methods.reviewkd import AttentionFusion, ReviewKD
from congruence.models import build


def method_of(students, teachers):
    method = ReviewKD()
    shapes = {
        ("student", "maps"): tuple(s.shape for s in students),
        ("teacher", "maps"): tuple(t.shape for t in teachers),
    }
    method.build(Probe(shapes, {}, {}, ("student",)))
    return method.double()


def signals(students, teachers):
    return Signals(
        {("student", "main", "maps"): tuple(students), ("teacher", "main", "maps"): tuple(teachers)}, ("student",)
    )


def golden_case(dtype=torch.float64):
    stored = golden.arrays("reviewkd_full_A")
    cast = {key: value.to(dtype) if value.is_floating_point() else value for key, value in stored.items()}
    students, teachers = ([cast[f"in_{side}{k}"] for k in range(4)] for side in "st")
    method = method_of(students, teachers)
    names = {name for name, _ in method.named_parameters()}
    parameters = {key.removeprefix("param_") for key in stored if key.startswith("param_")}
    assert names == {name for name in parameters if "running" not in name and "num_batches" not in name}
    for name, parameter in method.named_parameters():
        parameter.data.copy_(cast[f"param_{name}"])
    return cast, method, students, teachers


def test_equals_the_golden():
    cast, method, students, teachers = golden_case()
    leaves = [s.requires_grad_() for s in students]
    value = method.loss(signals(leaves, teachers))["loss"]
    torch.testing.assert_close(value, cast["loss"], rtol=1e-10, atol=0)
    value.backward()
    for k, leaf in enumerate(leaves):
        torch.testing.assert_close(leaf.grad, cast[f"grad_s{k}"], rtol=1e-8, atol=1e-10)
    for name, parameter in method.named_parameters():
        torch.testing.assert_close(parameter.grad, cast[f"gradparam_{name}"], rtol=1e-8, atol=1e-10)


def test_rows_are_maps_of_one_position():
    cast, method, students, teachers = golden_case()
    flat = [[*side[:3], side[3].flatten(1)] for side in (students, teachers)]
    assert method_of(*flat).abfs[0].conv1[0].weight.shape == (16, 16, 1, 1)
    torch.testing.assert_close(method.loss(signals(*flat))["loss"], cast["loss"], rtol=1e-10, atol=0)


def test_one_sample_has_a_loss():
    _, method, students, teachers = golden_case()
    leaves = [s[:1].clone().requires_grad_() for s in students]
    value = method.loss(signals(leaves, [t[:1] for t in teachers]))["loss"]
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)


def test_larger_maps_are_pooled_before_they_are_fused():
    _, method, students, teachers = golden_case()
    larger = [F.interpolate(students[0], scale_factor=2.0), *students[1:]]
    torch.testing.assert_close(*(method.loss(signals(s, teachers))["loss"] for s in (larger, students)))
    wide = [F.interpolate(teachers[0], scale_factor=2.0), *teachers[1:]]
    torch.testing.assert_close(*(method.loss(signals(students, t))["loss"] for t in (wide, teachers)))


def test_a_fusion_weighs_both_by_attention():
    torch.manual_seed(0)
    fusion = AttentionFusion(3, 4, 5, fuse=True)
    fusion.att_conv[0].weight.data.zero_()
    fusion.att_conv[0].bias.data.copy_(torch.tensor([100.0, -100.0]))  # the map alone
    maps, deeper = torch.randn(2, 3, 4, 4), torch.randn(2, 4, 2, 2)
    output, fused = fusion(maps, deeper)
    torch.testing.assert_close(fused, fusion.conv1(maps))
    torch.testing.assert_close(output, fusion.conv2(fused))
    fusion.att_conv[0].bias.data.copy_(torch.tensor([-100.0, 100.0]))  # what is deeper alone
    torch.testing.assert_close(fusion(maps, deeper)[1], F.interpolate(deeper, size=(4, 4), mode="nearest"))


def test_the_stages_of_both_by_default():
    torch.manual_seed(0)
    teacher, student, images = build("resnet8", classes=3), build("cnn3", classes=3), torch.randn(4, 3, 32, 32)
    made = cg.Distiller(teacher, student, ["reviewkd"], example=images[:2])
    assert made.layers()["reviewkd"] == {
        "student maps": ("relu1", "relu2", "relu3"),
        "teacher maps": ("layer1", "layer2", "layer3"),
    }
    made(images).loss.backward()
    assert student.conv1.weight.grad.any()
    assert all(parameter.grad is not None for parameter in made.methods["reviewkd"].parameters())
    assert not any("abfs" in name for name in made.student_state_dict())
