"""MobileNetV2, as the CIFAR distillation benchmark has it and as published for ImageNet."""

from __future__ import annotations

from torch import Tensor, nn

from congruence.models.zoo import parts

_EXPANSION = 6
# (stage, width, blocks, stride for small images, stride for ImageNet's); the first row's blocks do not expand.
_ROWS = (
    (1, 16, 1, 1, 1),
    (1, 24, 2, 1, 2),
    (2, 32, 3, 2, 2),
    (3, 64, 4, 2, 2),
    (3, 96, 3, 1, 1),
    (4, 160, 3, 2, 2),
    (4, 320, 1, 1, 1),
)


class InvertedResidual(nn.Module):
    """1×1 convolution to `inner` maps, 3×3 on each map by itself, 1×1 back; the input is added where shapes agree.

    Batch norm follows each, ReLU the first two: nothing acts on what leaves the block. `conv1`, `bn1` and `relu1` are
    absent where `expand` is False. `relu6` cuts activations off at 6.
    """

    def __init__(self, in_width: int, inner: int, width: int, stride: int, *, expand: bool, relu6: bool) -> None:
        super().__init__()
        if expand:
            self.conv1 = nn.Conv2d(in_width, inner, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(inner)
            self.relu1 = _activation(relu6)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = _activation(relu6)
        self.conv3 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.expands = expand
        self.adds = stride == 1 and in_width == width

    def forward(self, maps: Tensor) -> Tensor:
        """Map [B, in_width, H, W] to [B, width, H / stride, W / stride]."""
        hidden = self.relu1(self.bn1(self.conv1(maps))) if self.expands else maps
        hidden = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(hidden)))))
        return hidden + maps if self.adds else hidden


def _activation(relu6: bool) -> nn.Module:
    return nn.ReLU6() if relu6 else nn.ReLU()


class MobileNetV2(nn.Module):
    """A 3×3 convolution with stride 2, four stages of inverted residuals, a 1×1 convolution to 1280 maps, a classifier.

    Taps: `relu1` (the stem); `layer1`, ..., `layer4`, one for each size of the image, without an activation at their
    end (the last batch norm is `layer3.6.bn3`; maps before a ReLU lie inside the blocks: "input:layer3.6.relu2", after
    `layer3.6.bn2`); `relu2` (the last convolution; before it "input:relu2", after `bn2`); `avgpool` (rows), `embed`
    (as `avgpool` where there is no embedding layer), `fc`.

    Args:
        classes: outputs.
        in_channels: 1 or 3 image channels (any number works).
        width: multiplies the widths of all layers but the last convolution, which it only ever widens.
        stem: "small", the network of the CIFAR benchmark (that is 0.5 wide): 8 times smaller maps at the end than after
            the stem, widths rounded down, ReLU; "imagenet", the published one: 16 times smaller, widths rounded to
            multiples of 8, ReLU6, and no 1×1 convolution in the block that does not expand.
        embedding_dim: puts a linear layer `embed` of that many outputs before the classifier.

    Attributes:
        embedding_dim: width of what enters `fc`.

    Reference: Sandler et al. 2018, table 2; for small images as in the benchmark of Tian et al. 2020 (CRD).

    Deviations: no dropout before the classifier.
    """

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int = 3,
        width: float = 1.0,
        stem: str = "small",
        embedding_dim: int | None = None,
    ) -> None:
        super().__init__()
        imagenet = stem == "imagenet"

        def scaled(channels: int) -> int:
            return _multiple_of_8(channels * width) if imagenet else int(channels * width)

        before = scaled(32)
        self.conv1 = nn.Conv2d(in_channels, before, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(before)
        self.relu1 = _activation(imagenet)
        stages: dict[int, list[nn.Module]] = {1: [], 2: [], 3: [], 4: []}
        for row, (stage, channels, count, *strides) in enumerate(_ROWS):
            for number in range(count):
                inner = before * (1 if row == 0 else _EXPANSION)
                block = InvertedResidual(
                    before,
                    inner,
                    scaled(channels),
                    stride=strides[imagenet] if number == 0 else 1,
                    expand=row > 0 or not imagenet,
                    relu6=imagenet,
                )
                stages[stage].append(block)
                before = scaled(channels)
        for stage, blocks in stages.items():
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        last = max(1280, scaled(1280))
        self.conv2 = nn.Conv2d(before, last, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(last)
        self.relu2 = _activation(imagenet)
        self.avgpool = parts.average()
        self.embed = parts.embedding(last, embedding_dim)
        self.embedding_dim = embedding_dim or last
        self.fc = nn.Linear(self.embedding_dim, classes)
        parts.he_normal(self)
        parts.small_linear(self.fc)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, in_channels, H, W] to logits [B, classes]."""
        hidden: Tensor = self.relu1(self.bn1(self.conv1(images)))
        for stage in (1, 2, 3, 4):
            hidden = self.get_submodule(f"layer{stage}")(hidden)
        hidden = self.relu2(self.bn2(self.conv2(hidden)))
        logits: Tensor = self.fc(self.embed(self.avgpool(hidden)))
        return logits


def _multiple_of_8(channels: float) -> int:
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded  # never down by more than a tenth
