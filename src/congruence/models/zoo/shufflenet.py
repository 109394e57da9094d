"""ShuffleNetV1 and V2 for small images: a 1×1 stem without stride, three stages that each halve the image."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from congruence.models.zoo import parts

_STEM = 24


class GroupedUnit(nn.Module):
    """ShuffleNetV1: grouped 1×1, shuffle, 3×3 on each map, grouped 1×1; the input is added, or joined where it strides.

    The inner width is a quarter of what leaves the last convolution. With stride 2 that is `width` less `in_width`,
    and the input, averaged over 3×3 with stride 2, takes the other channels.
    """

    def __init__(self, in_width: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        own = width - in_width if stride == 2 else width
        inner = own // 4
        first = 1 if in_width == _STEM else groups  # the stem's few channels are not split
        self.conv1 = nn.Conv2d(in_width, inner, 1, groups=first, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.shuffle = parts.Shuffle(first)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, own, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(own)
        self.relu = nn.ReLU()
        self.joins = stride == 2

    def forward(self, maps: Tensor) -> Tensor:
        """Map [B, in_width, H, W] to [B, width, H / stride, W / stride]."""
        hidden = self.shuffle(torch.relu(self.bn1(self.conv1(maps))))
        hidden = torch.relu(self.bn2(self.conv2(hidden)))
        hidden = self.bn3(self.conv3(hidden))
        if self.joins:
            hidden = torch.cat([hidden, F.avg_pool2d(maps, 3, stride=2, padding=1)], 1)
        else:
            hidden = hidden + maps
        active: Tensor = self.relu(hidden)
        return active


class SplitUnit(nn.Module):
    """ShuffleNetV2: half of the channels pass, the others go through 1×1, 3×3 on each map and 1×1; joined, shuffled.

    With stride 2 both halves come from the whole input, the first by 3×3 on each map and 1×1.
    """

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        half = width // 2
        own = in_width if stride == 2 else half
        self.passing: nn.Module | None = None
        if stride == 2:
            self.passing = nn.Sequential(
                nn.Conv2d(in_width, in_width, 3, stride=2, padding=1, groups=in_width, bias=False),
                nn.BatchNorm2d(in_width),
                nn.Conv2d(in_width, half, 1, bias=False),
                nn.BatchNorm2d(half),
                nn.ReLU(),
            )
        self.conv1 = nn.Conv2d(own, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, stride=stride, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu = nn.ReLU()
        self.shuffle = parts.Shuffle(2)

    def forward(self, maps: Tensor) -> Tensor:
        """Map [B, in_width, H, W] to [B, width, H / stride, W / stride]."""
        passed, hidden = maps.chunk(2, 1) if self.passing is None else (self.passing(maps), maps)
        hidden = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(hidden)))))
        hidden = self.relu(self.bn3(self.conv3(hidden)))
        joined: Tensor = self.shuffle(torch.cat([passed, hidden], 1))
        return joined


class ShuffleNet(nn.Module):
    """The frame of both: stem, three stages, for V2 a last 1×1 convolution, average pooling, a classifier.

    Taps: `relu` (the stem); `layer1`, `layer2`, `layer3` (after the activation; before it, of V1 "input:layer3.3.relu",
    the unit's whole map, whose batch norm `bn3` stands before the sum; of V2 the half that the last unit computes,
    "input:layer3.3.relu", after `layer3.3.bn3`); `relu2` (V2, the last convolution, after `bn2`); `avgpool` (rows),
    `embed` (as `avgpool` where there is no embedding layer), `fc`.

    Args:
        unit: makes a unit from its widths and stride.
        widths: of the stages.
        last: width of the last convolution; None for none.
        classes: outputs.
        in_channels: 1 or 3 image channels (any number works).
        embedding_dim: puts a linear layer `embed` of that many outputs before the classifier.

    Attributes:
        embedding_dim: width of what enters `fc`.
    """

    def __init__(
        self,
        unit: Callable[[int, int, int], nn.Module],
        *,
        widths: tuple[int, int, int],
        last: int | None,
        classes: int,
        in_channels: int = 3,
        embedding_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, _STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.relu = nn.ReLU()
        before = _STEM
        for stage, (width, count) in enumerate(zip(widths, (4, 8, 4), strict=True)):
            units = [unit(before, width, 2)] + [unit(width, width, 1) for _ in range(count - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*units))
            before = width
        self.widens = last is not None
        if last is not None:
            self.conv2 = nn.Conv2d(before, last, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(last)
            self.relu2 = nn.ReLU()
            before = last
        self.avgpool = parts.average()
        self.embed = parts.embedding(before, embedding_dim)
        self.embedding_dim = embedding_dim or before
        self.fc = nn.Linear(self.embedding_dim, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, in_channels, H, W] to logits [B, classes]."""
        hidden: Tensor = self.relu(self.bn1(self.conv1(images)))
        for stage in (1, 2, 3):
            hidden = self.get_submodule(f"layer{stage}")(hidden)
        if self.widens:
            hidden = self.relu2(self.bn2(self.conv2(hidden)))
        logits: Tensor = self.fc(self.embed(self.avgpool(hidden)))
        return logits


def shufflenet_v1(*, classes: int, in_channels: int = 3, embedding_dim: int | None = None) -> ShuffleNet:
    """Return ShuffleNetV1 with 3 groups, widths 240, 480 and 960.

    Reference: Zhang et al. 2018, table 1 (g = 3); the stem as in the benchmark of Tian et al. 2020 (CRD).
    """

    def unit(in_width: int, width: int, stride: int) -> nn.Module:
        return GroupedUnit(in_width, width, stride, groups=3)

    return ShuffleNet(
        unit, widths=(240, 480, 960), last=None, classes=classes, in_channels=in_channels, embedding_dim=embedding_dim
    )


def shufflenet_v2(*, classes: int, in_channels: int = 3, embedding_dim: int | None = None) -> ShuffleNet:
    """Return ShuffleNetV2 1×, widths 116, 232 and 464, then 1024.

    Reference: Ma et al. 2018, table 5 (1×); the stem as in the benchmark of Tian et al. 2020 (CRD).
    """
    return ShuffleNet(
        SplitUnit,
        widths=(116, 232, 464),
        last=1024,
        classes=classes,
        in_channels=in_channels,
        embedding_dim=embedding_dim,
    )
