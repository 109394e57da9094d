from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from congruence.models.parameters import count_parameters
from congruence.models.taps import Taps
from congruence.models.zoo import build

# Convolutions by width, as in table 1 of Simonyan and Zisserman (A, B, D, E); 8 is the distillation benchmark's.
WIDTHS = {
    "vgg8": [64, 128, 256, 512, 512],
    "vgg11": [64, 128, 256, 256, 512, 512, 512, 512],
    "vgg13": [64, 64, 128, 128, 256, 256, 512, 512, 512, 512],
    "vgg16": [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512],
    "vgg19": [64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512, 512, 512, 512],
}


@pytest.mark.parametrize("name", WIDTHS)
def test_sizes_by_hand(name: str) -> None:
    pairs = zip([3, *WIDTHS[name]], WIDTHS[name], strict=False)
    total = sum(9 * before * width + width + 2 * width for before, width in pairs)
    assert count_parameters(build(name, classes=100)) == total + 512 * 100 + 100


@pytest.mark.parametrize(("side", "last"), [(32, 4), (64, 4), (48, 6)])
def test_layers_and_where_it_pools(side: int, last: int) -> None:
    torch.manual_seed(0)
    model = build("vgg8", classes=10).eval()
    images = torch.randn(2, 3, side, side)
    hidden = images
    for stage in range(1, 6):
        if stage in (2, 3, 4) or (stage == 5 and side == 64):
            hidden = F.max_pool2d(hidden, 2)
        layer = model.get_submodule(f"layer{stage}")
        hidden = F.relu(layer.bn1(F.conv2d(hidden, layer.conv1.weight, layer.conv1.bias, padding=1)))
    assert hidden.shape == (2, 512, last, last)
    torch.testing.assert_close(model(images), model.fc(hidden.mean((2, 3))))


def test_maps_before_activation() -> None:
    model = build("vgg13", classes=10).eval()
    images = torch.randn(2, 3, 16, 16)
    taps = Taps(model, name="teacher")
    taps.probe(images, training=False)
    taps.require(["layer3", "input:layer3.relu2", "layer3.bn2"])
    _, values = taps.read(images)
    assert torch.equal(values["input:layer3.relu2"], values["layer3.bn2"])
    assert (values["layer3.bn2"] < 0).any()
    assert torch.equal(values["layer3.bn2"].relu(), values["layer3"])
    assert values["layer3"].shape == (2, 256, 4, 4)


def test_initialisation_is_the_benchmarks() -> None:
    torch.manual_seed(0)
    model = build("vgg8", classes=100)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert abs(module.weight.std().item() / math.sqrt(2 / (9 * module.out_channels)) - 1) < 0.1
            assert not module.bias.any()
    assert abs(model.fc.weight.std().item() - 0.01) < 0.001
    assert not model.fc.bias.any()
