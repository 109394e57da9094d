"""ReviewKD: the student's deep layers are fused with its shallow ones and then compared with the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from congruence.losses.reviewkd import HierarchicalContextLoss
from congruence.methods.method import Method, Needs, Probe, Signals
from congruence.methods.paired import paired_maps, paired_shapes
from congruence.models.norms import BatchStatistics

_WIDEST = 512


class AttentionFusion(nn.Module):
    """One fusion step (ABF): a level's map, fused with the result of the deeper levels.

    x = BN(conv1×1(s)); with y from the deeper level, resized to x by nearest neighbours: (z_0, z_1) =
    sigmoid(conv1×1([x, y])), x ← z_0 x + z_1 y; the output is BN(conv3×3(x)), and x is passed on.

    Args:
        in_width: channels of s.
        width: channels of x.
        out_width: channels of the output.
        fuse: whether there is a deeper level.
    """

    def __init__(self, in_width: int, width: int, out_width: int, *, fuse: bool) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(in_width, width, 1, bias=False), BatchStatistics(width))
        self.conv2 = nn.Sequential(nn.Conv2d(width, out_width, 3, padding=1, bias=False), BatchStatistics(out_width))
        for part in (self.conv1, self.conv2):
            nn.init.kaiming_uniform_(cast(nn.Conv2d, part[0]).weight, a=1)
        self.att_conv = nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid()) if fuse else None

    def forward(self, maps: Tensor, deeper: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the output and the fused x, given a map and the x of the deeper level."""
        fused: Tensor = self.conv1(maps)
        if self.att_conv is not None and deeper is not None:
            deeper = F.interpolate(deeper, size=fused.shape[2:], mode="nearest")
            shares = self.att_conv(torch.cat([fused, deeper], 1))
            fused = fused * shares[:, :1] + deeper * shares[:, 1:]
        return self.conv2(fused), fused


class ReviewKD(Method):
    """`hierarchical_context_loss` of the teacher's layers and the student's, fused from the deepest to the shallowest.

    By default the layers are the last stages of both models. As published, they are the stages and, last, the input of
    the classifier (rows are maps with one position), with the teacher's layers before their ReLUs. The larger of two
    maps is average-pooled first. Fused maps are as wide as the student's deepest layer, at most 512. The batch norms
    use the statistics of the whole batch (of all ranks).

    Shape:
        maps [B, C, H, W] of any widths; a loss of shape [].

    Example:
        >>> ReviewKD().needs.roles
        ('maps',)

    Reference:
        Chen et al., Distilling Knowledge via Knowledge Review, CVPR 2021, secs. 3.2 to 3.4, and the authors' code.

    Deviations:
        The published weight (0.6, 1, 5 or 8 by pair) grows as min(1, epoch/20), from 0 in the first epoch:
        `Term("reviewkd", start_epoch=1, warmup_epochs=19)`. The recipes leave out `start_epoch`, which gives min(1,
        (epoch + 1)/20), so that the first epoch counts too. The authors' code resizes the student's map to the
        teacher's by nearest neighbours if sizes differ. The batch norms keep no running statistics: in evaluation mode
        they use the batch's statistics.
    """

    needs = Needs(roles=("maps",), stages=4, scope="batch")

    def __init__(self) -> None:
        super().__init__()
        self.criterion = HierarchicalContextLoss()
        self.abfs = nn.ModuleList()

    def build(self, probe: Probe) -> None:
        """Make a fusion for each level, the deepest first."""
        shapes = paired_shapes(probe)[::-1]
        width = min(_WIDEST, shapes[0][0][1])
        parts = [AttentionFusion(s[1], width, t[1], fuse=k > 0) for k, (s, t) in enumerate(shapes)]
        self.abfs = nn.ModuleList(parts)

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the loss of the reviewed maps."""
        reviewed, wanted = [], []
        deeper: Tensor | None = None
        for (student, teacher), fusion in zip(paired_maps(signals)[::-1], self.abfs, strict=True):
            output, deeper = fusion(student, deeper)
            reviewed.append(output)
            wanted.append(teacher)
        return {"loss": self.criterion(reviewed, wanted)}
