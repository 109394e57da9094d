"""Residual networks for small images: the CIFAR family of the distillation benchmarks, and ResNet-18 and -34."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)); the shortcut is a 1×1 convolution where shapes change."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()  # the last one: what enters it is the block's map before activation
        self.downsample: nn.Module | None = None
        if stride != 1 or in_width != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_width, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, in_width, H, W] to [B, width, H / stride, W / stride]."""
        shortcut = images if self.downsample is None else self.downsample(images)
        hidden = torch.relu(self.bn1(self.conv1(images)))
        maps: Tensor = self.relu(self.bn2(self.conv2(hidden)) + shortcut)
        return maps


class ResNet(nn.Module):
    """A 3×3 stem, stages of basic blocks that halve the image from the second on, average pooling, a classifier.

    Taps: `relu` (the stem); `layer1`, `layer2`, ... (after the activation; before it: "input:layer1.2.relu" for the
    third block of the first stage); `avgpool` (rows), `embed` (as `avgpool` where there is no embedding layer), `fc`.

    Args:
        blocks: how many blocks each stage has.
        stem: width of the first convolution.
        widths: of the stages.
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
        stem: int,
        widths: Sequence[int],
        classes: int,
        in_channels: int = 3,
        embedding_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        self.stages = len(blocks)
        width = stem
        for stage, (count, out_width) in enumerate(zip(blocks, widths, strict=True)):
            parts = [BasicBlock(width, out_width, stride=1 if stage == 0 else 2)]
            parts += [BasicBlock(out_width, out_width, stride=1) for _ in range(count - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*parts))
            width = out_width
        self.avgpool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        self.embed: nn.Module = nn.Identity() if embedding_dim is None else nn.Linear(width, embedding_dim)
        self.embedding_dim = embedding_dim or width
        self.fc = nn.Linear(self.embedding_dim, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, in_channels, H, W] to logits [B, classes]."""
        hidden: Tensor = self.relu(self.bn1(self.conv1(images)))
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
    blocks: tuple[int, ...], *, width: int = 64, classes: int, in_channels: int = 3, embedding_dim: int | None = None
) -> ResNet:
    """Return ResNet-18 (2, 2, 2, 2) or ResNet-34 (3, 4, 6, 3) with the stem for small images: 3×3, no first pooling."""
    return ResNet(
        blocks,
        stem=width,
        widths=tuple(width * 2**stage for stage in range(4)),
        classes=classes,
        in_channels=in_channels,
        embedding_dim=embedding_dim,
    )
