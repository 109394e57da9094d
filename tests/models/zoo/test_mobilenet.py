from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from congruence.models.parameters import count_parameters
from congruence.models.taps import Taps
from congruence.models.zoo import build
from congruence.models.zoo.mobilenet import InvertedResidual

# Table 2 of Sandler et al.: widths and how many blocks.
TABLE = [(16, 1), (24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1)]


def size(widths: list[int], stem: int, last: int, classes: int, *, first_expands: bool) -> int:
    total, before = 27 * stem + 2 * stem, stem
    for row, (width, (_, count)) in enumerate(zip(widths, TABLE, strict=True)):
        for _ in range(count):
            inner = before * (6 if row > 0 else 1)
            if row > 0 or first_expands:
                total += before * inner + 2 * inner
            total += 9 * inner + 2 * inner + inner * width + 2 * width
            before = width
    return total + before * last + 2 * last + last * classes + classes


def test_sizes_by_hand() -> None:
    full = [width for width, _ in TABLE]
    half = [width // 2 for width in full]
    small = size(full, 32, 1280, 100, first_expands=True)
    assert count_parameters(build("mobilenetv2", classes=100)) == small
    assert count_parameters(build("mobilenetv2", classes=100, width=0.5)) == size(
        half, 16, 1280, 100, first_expands=True
    )
    published = size(full, 32, 1280, 1000, first_expands=False)
    assert count_parameters(build("mobilenetv2", classes=1000, stem="imagenet")) == published == 3_504_872
    # 12 is 8 or 16, and 8 would lose more than a tenth.
    rounded = size([8, 16, 16, 32, 48, 80, 160], 16, 1280, 1000, first_expands=False)
    assert count_parameters(build("mobilenetv2", classes=1000, stem="imagenet", width=0.5)) == rounded
    assert build("mobilenetv2", classes=2, width=1.4).embedding_dim == 1792


@pytest.mark.parametrize(
    ("stem", "sides"), [("small", [16, 16, 8, 4, 2, 2]), ("imagenet", [16, 8, 4, 2, 1, 1])], ids=str
)
def test_where_it_strides_and_activates(stem: str, sides: list[int]) -> None:
    model = build("mobilenetv2", classes=10, width=0.5, stem=stem).eval()
    images = torch.randn(2, 3, 32, 32)
    taps = Taps(model, name="teacher")
    taps.probe(images, training=False)
    paths = ["relu1", "layer1", "layer2", "layer3", "layer4", "relu2"]
    taps.require([*paths, "layer3.6.bn3", "input:layer3.6.relu2", "layer3.6.bn2", "bn2", "layer3.5"])
    _, values = taps.read(images)
    assert [values[path].shape[-1] for path in paths] == sides
    assert (values["layer4"] < 0).any()  # nothing acts on what leaves a block
    assert (values["layer3.6.bn2"] < 0).any()
    assert torch.equal(values["input:layer3.6.relu2"], values["layer3.6.bn2"])
    torch.testing.assert_close(values["layer3"], values["layer3.6.bn3"] + values["layer3.5"])
    kinds = {type(module) for module in model.modules() if isinstance(module, nn.ReLU | nn.ReLU6)}
    assert kinds == {nn.ReLU6 if stem == "imagenet" else nn.ReLU}


@pytest.mark.parametrize(("width", "stride", "adds"), [(4, 1, True), (4, 2, False), (6, 1, False)])
@pytest.mark.parametrize("expand", [True, False])
def test_block(width: int, stride: int, adds: bool, expand: bool) -> None:
    block = InvertedResidual(4, 8 if expand else 4, width, stride, expand=expand, relu6=True).eval()
    maps = 9 * torch.randn(2, 4, 6, 6)

    def act(hidden: Tensor) -> Tensor:
        return hidden.clamp(0, 6)

    hidden = act(block.bn1(F.conv2d(maps, block.conv1.weight))) if expand else maps
    groups = hidden.shape[1]
    hidden = act(block.bn2(F.conv2d(hidden, block.conv2.weight, stride=stride, padding=1, groups=groups)))
    hidden = block.bn3(F.conv2d(hidden, block.conv3.weight))
    torch.testing.assert_close(block(maps), hidden + maps if adds else hidden)
