from __future__ import annotations

import math

import torch
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
