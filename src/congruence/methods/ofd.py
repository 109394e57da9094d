"""The feature distillation overhaul: connectors on the student's maps, margins from the teacher's batch norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.losses.ofd import OverhaulLoss
from congruence.methods.margins import margin_before
from congruence.methods.method import Method, Needs, Probe, Signals
from congruence.methods.paired import paired_maps, paired_shapes
from congruence.models.norms import BatchStatistics

Margins = Sequence[Sequence[float]]


class Overhaul(Method):
    """`overhaul_loss` of every pair of layers before their ReLUs, the deepest weighted most.

    L = Σ_i 2^{−(n−i−1)} (1/B) overhaul_loss(BN(conv1×1(s_i)), t_i, m_i) for layers i = 0..n−1, shallow to deep; the
    larger of two maps is average-pooled first. The connectors' batch norms use the statistics of the whole batch (of
    all ranks). The layers must be named, since a model's stages end after their ReLUs: "input:layer1.2.relu" is the
    input of the ReLU of a residual block in the zoo, "bn1" the output of a batch norm.

    Shape:
        maps [B, C, H, W] of any widths; a loss of shape [].

    Args:
        margins: m of each layer, one number for each channel; None for those of the batch norms that feed the teacher's
            layers (found by `congruence.methods.margins.margin_before`).

    Raises:
        ValueError: if a margin is neither given nor found, or does not fit its layer.

    Reference:
        Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019, sec. 3, and the authors' code.

    Deviations:
        The connectors keep no running statistics: in evaluation mode they use the batch's statistics.
    """

    needs = Needs(roles=("maps",), scope="batch")

    def __init__(self, *, margins: Margins | None = None) -> None:
        super().__init__()
        self.margins = None if margins is None else _checked(margins)
        self.criterion = OverhaulLoss(reduction="mean")
        self.connectors = nn.ModuleList()

    def build(self, probe: Probe) -> None:
        """Make a connector for each pair of layers, and find the margins."""
        shapes, paths = paired_shapes(probe), probe.paths["teacher", "maps"]
        if self.margins is not None and len(self.margins) != len(shapes):
            check.fail("Overhaul", "margins", f"one list for each of the {len(shapes)} layers", f"{len(self.margins)}")
        self.connectors = nn.ModuleList()
        for k, ((student, teacher), path) in enumerate(zip(shapes, paths, strict=True)):
            if self.margins is None:
                margin = margin_before(probe.modules["teacher"], path, teacher[1])
            else:
                margin = self.margins[k]
                if len(margin) != teacher[1]:
                    check.fail("Overhaul", "margins", f"{teacher[1]} numbers for '{path}'", f"{len(margin)}")
            self.register_buffer(f"margin{k}", margin.clone())
            connector = nn.Conv2d(student[1], teacher[1], 1, bias=False)
            nn.init.kaiming_normal_(connector.weight, mode="fan_out", nonlinearity="relu")
            self.connectors.append(nn.Sequential(connector, BatchStatistics(teacher[1])))

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the weighted sum over the layers."""
        values = []
        for k, ((student, teacher), connector) in enumerate(zip(paired_maps(signals), self.connectors, strict=True)):
            value = self.criterion(connector(student), teacher, self.get_buffer(f"margin{k}"))
            values.append(value / 2 ** (len(self.connectors) - k - 1))
        return {"loss": torch.stack(values).sum()}


def _checked(margins: Margins) -> list[Tensor]:
    try:
        rows = [torch.as_tensor(row, dtype=torch.float32) for row in margins]
    except (TypeError, ValueError, RuntimeError):
        rows = []
    if not rows or any(row.dim() != 1 or not torch.isfinite(row).all() for row in rows):
        check.fail("Overhaul", "margins", "a list of finite numbers for each layer, or None", repr(margins)[:60])
    return rows
