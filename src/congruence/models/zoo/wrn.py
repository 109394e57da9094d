"""Wide residual networks: blocks that normalise and activate before they convolve."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from congruence.models.zoo import parts


class PreactivationBlock(nn.Module):
    """conv2(relu2(bn2(conv1(relu1(bn1(x)))))) + shortcut: nothing acts on the sum, the next block's `bn1` does.

    The shortcut is x itself; where the width changes, a 1×1 convolution of relu1(bn1(x)).
    """

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = None if in_width == width else nn.Conv2d(in_width, width, 1, stride=stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Map [B, in_width, H, W] to [B, width, H / stride, W / stride]."""
        active = self.relu1(self.bn1(maps))
        shortcut = maps if self.shortcut is None else self.shortcut(active)
        total: Tensor = self.conv2(torch.relu(self.bn2(self.conv1(active)))) + shortcut
        return total


class WideResNet(nn.Module):
    """A 3×3 convolution to 16 maps, three stages of (depth − 4) / 6 blocks, batch norm, ReLU, pooling, a classifier.

    Taps: `conv1`; `layer1`, `layer2`, `layer3`, which are sums that nothing has acted on yet. Their batch norms, and
    the maps before the ReLUs behind those, belong to what comes next: `layer2.0.bn1` and "input:layer2.0.relu1" for the
    first stage, `layer3.0.bn1` and "input:layer3.0.relu1" for the second, `bn1` and "input:relu" for the last. `relu`,
    `avgpool` (rows), `embed` (as `avgpool` where there is no embedding layer), `fc`.

    Args:
        depth: 6n + 4 layers.
        factor: the stages' widths are 16, 32 and 64 times this.
        classes: outputs.
        in_channels: 1 or 3 image channels (any number works).
        embedding_dim: puts a linear layer `embed` of that many outputs before the classifier.

    Attributes:
        embedding_dim: width of what enters `fc`.

    Reference: Zagoruyko and Komodakis 2016 (WRN-depth-factor, without dropout), as in the benchmark of Tian et al. 2020
    (CRD).
    """

    def __init__(
        self, depth: int, factor: int, *, classes: int, in_channels: int = 3, embedding_dim: int | None = None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        width = 16
        for stage in range(3):
            blocks = []
            for number in range((depth - 4) // 6):
                out_width = 16 * 2**stage * factor
                blocks.append(PreactivationBlock(width, out_width, stride=2 if stage > 0 and number == 0 else 1))
                width = out_width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.avgpool = parts.average()
        self.embed = parts.embedding(width, embedding_dim)
        self.embedding_dim = embedding_dim or width
        self.fc = nn.Linear(self.embedding_dim, classes)
        parts.he_normal(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, in_channels, H, W] to logits [B, classes]."""
        hidden: Tensor = self.conv1(images)
        for stage in (1, 2, 3):
            hidden = self.get_submodule(f"layer{stage}")(hidden)
        logits: Tensor = self.fc(self.embed(self.avgpool(self.relu(self.bn1(hidden)))))
        return logits
