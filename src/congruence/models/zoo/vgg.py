"""VGG for small images: batch norm, average pooling and one linear layer instead of three."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from congruence.models.zoo import parts

_LARGE = 64  # the benchmark pools before the last stage only where the image is as large as Tiny-ImageNet's


class Vgg(nn.Module):
    """Five stages of 3×3 convolutions, each with batch norm and ReLU; 2×2 max pooling between stages.

    Taps: `layer1`, ..., `layer5` (after the activation, before pooling); before the ReLU "input:layer3.relu2" where the
    stage has two convolutions, with its batch norm `layer3.bn2`; `avgpool` (rows), `embed` (as `avgpool` where there is
    no embedding layer), `fc`. Between the fourth and the fifth stage images smaller than 64×64 are not pooled.

    Args:
        counts: how many convolutions each stage has.
        classes: outputs.
        in_channels: 1 or 3 image channels (any number works).
        embedding_dim: puts a linear layer `embed` of that many outputs before the classifier.

    Attributes:
        embedding_dim: width of what enters `fc`.

    Reference: Simonyan and Zisserman 2015, table 1 (11, 13, 16, 19 layers), without its two wide linear layers, as in
    the benchmark of Tian et al. 2020 (CRD), which adds VGG-8. Convolutions have biases, as there.
    """

    def __init__(
        self, counts: Sequence[int], *, classes: int, in_channels: int = 3, embedding_dim: int | None = None
    ) -> None:
        super().__init__()
        before = in_channels
        for stage, (count, width) in enumerate(zip(counts, (64, 128, 256, 512, 512), strict=True)):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            for number in range(1, count + 1):
                layers[f"conv{number}"] = nn.Conv2d(before, width, 3, padding=1)
                layers[f"bn{number}"] = nn.BatchNorm2d(width)
                layers[f"relu{number}"] = nn.ReLU()
                before = width
            self.add_module(f"layer{stage + 1}", nn.Sequential(layers))
        self.avgpool = parts.average()
        self.embed = parts.embedding(before, embedding_dim)
        self.embedding_dim = embedding_dim or before
        self.fc = nn.Linear(self.embedding_dim, classes)
        parts.he_normal(self)
        parts.small_linear(self.fc)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, in_channels, H, W] to logits [B, classes]."""
        hidden = images
        pooled = (2, 3, 4, 5) if min(images.shape[-2:]) >= _LARGE else (2, 3, 4)
        for stage in range(1, 6):
            if stage in pooled:
                hidden = F.max_pool2d(hidden, 2)
            hidden = self.get_submodule(f"layer{stage}")(hidden)
        logits: Tensor = self.fc(self.embed(self.avgpool(hidden)))
        return logits
