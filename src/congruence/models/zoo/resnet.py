"""Residual networks: the CIFAR family of the distillation benchmarks, and ResNet-18, -34 and -50 with either stem."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from congruence.models.zoo import parts


class BasicBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)); the shortcut is a 1×1 convolution where shapes change."""

    expansion = 1

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()  # the last one: what enters it is the block's map before activation
        self.downsample = _shortcut(in_width, width, stride)

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, in_width, H, W] to [B, width, H / stride, W / stride]."""
        shortcut = images if self.downsample is None else self.downsample(images)
        hidden = torch.relu(self.bn1(self.conv1(images)))
        maps: Tensor = self.relu(self.bn2(self.conv2(hidden)) + shortcut)
        return maps


class Bottleneck(nn.Module):
    """Convolutions 1×1, 3×3 (which strides) and 1×1 to four times the width, each with batch norm, around a shortcut.

    relu(bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))) + shortcut(x)).
    """

    expansion = 4

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        out_width = self.expansion * width
        self.conv1 = nn.Conv2d(in_width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_width)
        self.relu = nn.ReLU()  # the last one, as in the basic block
        self.downsample = _shortcut(in_width, out_width, stride)

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, in_width, H, W] to [B, 4 · width, H / stride, W / stride]."""
        shortcut = images if self.downsample is None else self.downsample(images)
        hidden = torch.relu(self.bn1(self.conv1(images)))
        hidden = torch.relu(self.bn2(self.conv2(hidden)))
        maps: Tensor = self.relu(self.bn3(self.conv3(hidden)) + shortcut)
        return maps


def _shortcut(in_width: int, out_width: int, stride: int) -> nn.Module | None:
    if stride == 1 and in_width == out_width:
        return None
    return nn.Sequential(nn.Conv2d(in_width, out_width, 1, stride=stride, bias=False), nn.BatchNorm2d(out_width))


class ResNet(nn.Module):
    """A stem, stages of residual blocks that halve the image from the second on, average pooling, a classifier.

    Taps: `relu` (the stem); `layer1`, `layer2`, ... (after the activation; before it: "input:layer1.2.relu" for the
    third block of the first stage, the sum of shortcut and last batch norm, which is `layer1.2.bn2`, of bottlenecks
    `bn3`); `avgpool` (rows), `embed` (as `avgpool` where there is no embedding layer), `fc`.

    Args:
        blocks: how many blocks each stage has.
        block: `BasicBlock` or `Bottleneck`.
        stem: width of the first convolution.
        imagenet: whether the stem is that for large images, 7×7 with stride 2 and 3×3 max pooling with stride 2,
            instead of 3×3 without pooling.
        widths: of the stages; of bottlenecks the inner width, a quarter of what leaves them.
        classes: outputs.
        in_channels: 1 or 3 image channels (any number works).
        embedding_dim: puts a linear layer `embed` of that many outputs before the classifier.

    Attributes:
        embedding_dim: width of what enters `fc`.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        *,
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
        stem: int,
        imagenet: bool = False,
        widths: Sequence[int],
        classes: int,
        in_channels: int = 3,
        embedding_dim: int | None = None,
    ) -> None:
        super().__init__()
        kernel, stride = (7, 2) if imagenet else (3, 1)
        self.conv1 = nn.Conv2d(in_channels, stem, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if imagenet else None
        self.stages = len(blocks)
        width = stem
        for stage, (count, inner) in enumerate(zip(blocks, widths, strict=True)):
            made = [block(width, inner, stride=1 if stage == 0 else 2)]
            width = inner * block.expansion
            made += [block(width, inner, stride=1) for _ in range(count - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*made))
        self.avgpool = parts.average()
        self.embed = parts.embedding(width, embedding_dim)
        self.embedding_dim = embedding_dim or width
        self.fc = nn.Linear(self.embedding_dim, classes)
        parts.he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, in_channels, H, W] to logits [B, classes]."""
        hidden: Tensor = self.relu(self.bn1(self.conv1(images)))
        if self.maxpool is not None:
            hidden = self.maxpool(hidden)
        for stage in range(self.stages):
            hidden = self.get_submodule(f"layer{stage + 1}")(hidden)
        logits: Tensor = self.fc(self.embed(self.avgpool(hidden)))
        return logits


def cifar_resnet(
    depth: int, *, wide: bool = False, classes: int, in_channels: int = 3, embedding_dim: int | None = None
) -> ResNet:
    """Return the residual network of 6n+2 layers for CIFAR images.

    Reference: He et al. 2016, sec. 4.2; shortcuts and widths as in the benchmark of Tian et al. 2020 (CRD): 1×1
    convolutions where shapes change, widths 16-32-64, "x4" 64-128-256 after a stem of 32.
    """
    count = (depth - 2) // 6
    return ResNet(
        (count, count, count),
        stem=32 if wide else 16,
        widths=(64, 128, 256) if wide else (16, 32, 64),
        classes=classes,
        in_channels=in_channels,
        embedding_dim=embedding_dim,
    )


def resnet(
    blocks: tuple[int, ...],
    block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
    *,
    width: int = 64,
    stem: str = "small",
    classes: int,
    in_channels: int = 3,
    embedding_dim: int | None = None,
) -> ResNet:
    """Return ResNet-18 (2, 2, 2, 2), ResNet-34 (3, 4, 6, 3) or, of bottlenecks, ResNet-50 (3, 4, 6, 3).

    `stem` is "small" (3×3, no first pooling) or "imagenet" (7×7 with stride 2, then max pooling). With the latter the
    layers are called as in torchvision, so that the weights published there load; as there, a bottleneck strides in its
    3×3 convolution.

    Reference: He et al. 2016, sec. 4.1; the small stem as in the benchmark of Tian et al. 2020 (CRD).
    """
    return ResNet(
        blocks,
        block=block,
        stem=width,
        imagenet=stem == "imagenet",
        widths=tuple(width * 2**stage for stage in range(4)),
        classes=classes,
        in_channels=in_channels,
        embedding_dim=embedding_dim,
    )
