"""The very small student of the retrieval experiments: three convolutions and a fully connected layer."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

_SMALLEST = 22  # the smallest side that leaves a 2×2 map after three unpadded convolutions


class Grid2x2(nn.Module):
    """Largest value in each quarter of the map, flattened: [B, C, H, W] to [B, 4·C].

    Quarters overlap by one where a side is odd. On 32×32 images this is 2×2 max pooling with stride 2; written as plain
    max pooling because the adaptive one has no deterministic backward on GPUs.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Pool and flatten."""
        height, width = maps.shape[-2:]
        stride = (height // 2, width // 2)
        return F.max_pool2d(maps, (height - stride[0], width - stride[1]), stride).flatten(1)


class Cnn3(nn.Module):
    """Three times convolution 3×3 (unpadded), batch norm, ReLU, 2×2 max pooling; then `embed` with ReLU, and `fc`.

    Taps: `conv1`, `conv2`, `conv3` (before batch norm), `relu1`, `relu2`, `relu3`, `pool` (flattened), `embed` (the
    embedding, after its ReLU: what enters `fc`), `fc`.

    Args:
        classes: outputs.
        in_channels: 1 or 3 image channels (any number works).
        width: of the first convolution; the others have 2 and 4 times as many. 8 is the papers' student,
            16 with `embedding_dim=128` the auxiliary teacher of heterogeneous distillation.
        embedding_dim: width of the embedding.
        keep: 1, 2 or 3 keeps only that many convolutions and averages the map over positions instead of `embed`
            (the truncated students of the perception coherence paper, sec. 5.5).

    Images smaller than 22×22 are framed with zeros to that size, which the unpadded convolutions need.

    Reference: perception coherence, app. E.2 and fig. 9, after Passalis et al. 2020 (CVPR), whose released model has
    these layers.
    """

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int = 3,
        width: int = 8,
        embedding_dim: int | None = None,
        keep: int | None = None,
    ) -> None:
        super().__init__()
        self.depth = 3 if keep is None else keep
        before = in_channels
        for layer in range(self.depth):
            after = width * 2**layer
            self.add_module(f"conv{layer + 1}", nn.Conv2d(before, after, 3))
            self.add_module(f"bn{layer + 1}", nn.BatchNorm2d(after))
            self.add_module(f"relu{layer + 1}", nn.ReLU())
            before = after
        self.pool: nn.Module
        self.embed: nn.Module
        if keep is None:
            self.embedding_dim = 64 if embedding_dim is None else embedding_dim
            self.pool = Grid2x2()
            linear = nn.Linear(4 * before, self.embedding_dim)
            self.embed = nn.Sequential(OrderedDict(linear=linear, relu=nn.ReLU()))
        else:
            self.embedding_dim = before if embedding_dim is None else embedding_dim
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
            self.embed = nn.Identity() if embedding_dim is None else nn.Linear(before, embedding_dim)
        self.fc = nn.Linear(self.embedding_dim, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, in_channels, H, W] to logits [B, classes]."""
        hidden = _framed(images)
        for layer in range(1, self.depth + 1):
            if layer > 1:
                hidden = F.max_pool2d(hidden, 2)
            hidden = self.get_submodule(f"conv{layer}")(hidden)
            hidden = self.get_submodule(f"relu{layer}")(self.get_submodule(f"bn{layer}")(hidden))
        logits: Tensor = self.fc(self.embed(self.pool(hidden)))
        return logits


def _framed(images: Tensor) -> Tensor:
    lack = [max(0, _SMALLEST - side) for side in images.shape[-2:]]
    if not any(lack):
        return images
    return F.pad(images, (lack[1] // 2, lack[1] - lack[1] // 2, lack[0] // 2, lack[0] - lack[0] // 2))
