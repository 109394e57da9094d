from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from congruence.models.parameters import count_parameters
from congruence.models.taps import Taps
from congruence.models.zoo import build


@pytest.mark.parametrize(("depth", "factor"), [(16, 1), (16, 2), (40, 1), (40, 2)])
def test_sizes_by_hand(depth: int, factor: int) -> None:
    total, before = 27 * 16, 16
    for width in (16 * factor, 32 * factor, 64 * factor):
        for _ in range((depth - 4) // 6):
            total += 9 * before * width + 9 * width * width + 2 * before + 2 * width
            total += before * width if before != width else 0
            before = width
    total += 2 * before + before * 100 + 100
    assert count_parameters(build(f"wrn{depth}_{factor}", classes=100)) == total


@pytest.mark.parametrize("factor", [1, 2])
def test_normalises_and_activates_before_it_convolves(factor: int) -> None:
    torch.manual_seed(0)
    model = build(f"wrn16_{factor}", classes=4).double().eval()
    for module in model.modules():  # at its start a batch norm passes everything on: no test of its place
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.weight)
            nn.init.normal_(module.bias)
    images = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    maps = F.conv2d(images, model.conv1.weight, padding=1)
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        for number, block in enumerate(model.get_submodule(f"layer{stage}")):
            step = stride if number == 0 else 1
            active = F.relu(block.bn1(maps))
            inner = F.conv2d(active, block.conv1.weight, stride=step, padding=1)
            inner = F.conv2d(F.relu(block.bn2(inner)), block.conv2.weight, padding=1)
            narrow = maps.shape[1] != inner.shape[1]
            maps = inner + (F.conv2d(active, block.shortcut.weight, stride=step) if narrow else maps)
    expected = model.fc(F.relu(model.bn1(maps)).mean((2, 3)))
    torch.testing.assert_close(model(images), expected)


def test_maps_before_activation_follow_the_stages() -> None:
    model = build("wrn16_2", classes=10).eval()
    images = torch.randn(2, 3, 32, 32)
    taps = Taps(model, name="teacher")
    taps.probe(images, training=False)
    before = ["input:layer2.0.relu1", "input:layer3.0.relu1", "input:relu"]
    taps.require(["layer1", "layer2", "layer3", *before, "relu"])
    _, values = taps.read(images)
    norms = [model.layer2[0].bn1, model.layer3[0].bn1, model.bn1]
    for stage, (path, norm) in enumerate(zip(before, norms, strict=True), start=1):
        maps = values[f"layer{stage}"]
        assert maps.shape == (2, 16 * 2**stage, 64 // 2**stage, 64 // 2**stage)
        torch.testing.assert_close(values[path], norm(maps))
        assert (values[path] < 0).any()
    assert torch.equal(values["relu"], values["input:relu"].relu())
