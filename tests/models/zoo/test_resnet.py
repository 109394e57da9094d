from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from congruence.models.taps import Taps
from congruence.models.zoo import build


def test_stages_shapes_and_maps_before_activation() -> None:
    model = build("resnet14", classes=10).eval()
    images = torch.randn(2, 3, 32, 32)
    taps = Taps(model, name="teacher")
    taps.probe(images, training=False)
    taps.require(["relu", "layer1", "layer2", "layer3", "input:layer3.1.relu", "avgpool", "fc"])
    _, values = taps.read(images)
    shapes = {path: list(value.shape) for path, value in values.items()}
    assert shapes == {
        "relu": [2, 16, 32, 32],
        "layer1": [2, 16, 32, 32],
        "layer2": [2, 32, 16, 16],
        "layer3": [2, 64, 8, 8],
        "input:layer3.1.relu": [2, 64, 8, 8],
        "avgpool": [2, 64],
        "fc": [2, 10],
    }
    before = values["input:layer3.1.relu"]
    assert (before < 0).any()
    assert torch.equal(before.relu(), values["layer3"])
    torch.testing.assert_close(values["avgpool"], values["layer3"].mean((2, 3)))
    torch.testing.assert_close(values["fc"], model.fc(values["avgpool"]))


def test_initialisation_is_he_normal_over_outputs() -> None:
    torch.manual_seed(0)
    model = build("resnet8x4", classes=10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
            expected = math.sqrt(2 / (module.out_channels * module.kernel_size[0] ** 2))
            assert abs(module.weight.std().item() / expected - 1) < 0.1
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert torch.equal(module.bias, torch.zeros_like(module.bias))


def test_an_embedding_adds_one_linear_layer() -> None:
    model = build("resnet8", classes=10, embedding_dim=128)
    assert [name for name, module in model.named_modules() if isinstance(module, nn.Linear)] == ["embed", "fc"]
    assert (model.embed.out_features, model.fc.in_features, model.embedding_dim) == (128, 128, 128)
    assert build("resnet8x4", classes=10).embedding_dim == 256


def test_width_halves_resnet18() -> None:
    assert build("resnet18", classes=10, width=32).embedding_dim == 256


def test_bottlenecks_stride_in_their_middle_and_widen_fourfold() -> None:
    torch.manual_seed(0)
    model = build("resnet50", classes=10, width=4).eval()
    images = torch.randn(2, 3, 16, 16)
    taps = Taps(model, name="teacher")
    taps.probe(images, training=False)
    taps.require(["layer1", "layer2.0", "layer4", "input:layer2.0.relu"])
    _, values = taps.read(images)
    assert [values[path].shape for path in ("layer1", "layer4")] == [(2, 16, 16, 16), (2, 128, 2, 2)]
    block, maps = model.layer2[0], values["layer1"]
    hidden = F.relu(block.bn1(F.conv2d(maps, block.conv1.weight)))
    hidden = F.relu(block.bn2(F.conv2d(hidden, block.conv2.weight, stride=2, padding=1)))
    shortcut = block.downsample[1](F.conv2d(maps, block.downsample[0].weight, stride=2))
    expected = block.bn3(F.conv2d(hidden, block.conv3.weight)) + shortcut
    torch.testing.assert_close(values["input:layer2.0.relu"], expected)
    torch.testing.assert_close(values["layer2.0"], expected.relu())
    assert [len(model.get_submodule(f"layer{stage}")) for stage in (1, 2, 3, 4)] == [3, 4, 6, 3]


def test_the_imagenet_stem() -> None:
    torch.manual_seed(0)
    model = build("resnet18", classes=10, width=4, stem="imagenet").eval()
    images = torch.randn(2, 3, 64, 64)
    stem = F.relu(model.bn1(F.conv2d(images, model.conv1.weight, stride=2, padding=3)))
    maps = F.max_pool2d(stem, 3, stride=2, padding=1)
    assert model.conv1.weight.shape[-2:] == (7, 7)
    assert maps.shape == (2, 4, 16, 16)
    for stage in (1, 2, 3, 4):
        maps = model.get_submodule(f"layer{stage}")(maps)
    torch.testing.assert_close(model(images), model.fc(maps.mean((2, 3))))


def test_names_are_those_of_published_weights() -> None:
    state = build("resnet50", classes=3, width=1, stem="imagenet").state_dict()
    weights = {name for name in state if name.startswith("layer1.0.") and name.endswith(".weight")}
    parts = ["conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample.0", "downsample.1"]
    assert weights == {f"layer1.0.{part}.weight" for part in parts}
    assert [name for name in state if "layer" not in name and "bn1" not in name] == [
        "conv1.weight",
        "fc.weight",
        "fc.bias",
    ]
