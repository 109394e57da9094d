"""Heterogeneous knowledge distillation: several layers, with weights of earlier layers that fall over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.geometry.maps import pooled_to
from congruence.losses.hkd import CHECKS as LOSS_CHECKS
from congruence.losses.hkd import Divergence, HeterogeneousKdLoss, KernelName
from congruence.methods.method import Method, Needs, Probe, Signals

Positions = Literal["flattened", "averaged"]
CHECKS: Mapping[str, check.Constraint] = {
    "positions": check.Choice(("flattened", "averaged")),
    "grid": check.Real(low=1, closed="low", integer=True, optional=True),
    "divergence": LOSS_CHECKS["divergence"],
    "earlier_weight": check.NOT_NEGATIVE,
    "earlier_decay": check.Real(low=0, high=1, closed="both"),
    "eps": LOSS_CHECKS["eps"],
}


class HeterogeneousKd(Method):
    """`heterogeneous_kd_loss` of several layers and kernels: the flow of information through the network.

    L = Σ_kernels [ ℓ(deepest layer) + w Σ ℓ(earlier layer) ] with w = earlier_weight · earlier_decay^epoch, layers
    given shallow to deep. So early layers are trained mostly in the critical early epochs, and the last layer later.

    The layers of both sides are paired, so the teacher must be as deep as the student. The recipes therefore first
    train an auxiliary teacher of the student's depth from the teacher's last layer. No labels are used; a classifier
    needs `ce` beside it.

    Shape:
        at least one pair of layers: rows [B, D], tokens [B, N, D] or maps [B, C, H, W], of any sizes; a loss of shape
        [].

    Args:
        positions: "flattened" compares maps with all their positions, as the authors do behind a pooling (of `cnn3`:
            "input:conv2", "input:conv3" and "pool"); "averaged" compares their spatial means.
        grid: flattened maps are first average-pooled to at most this many positions along each side; None: not pooled,
            which is slow for large maps. The authors pool a ResNet's stages to 4 and 2.
        kernels: the kernels for `heterogeneous_kd_loss`, whose losses are added.
        divergence: see `heterogeneous_kd_loss`.
        earlier_weight: w in the first epoch.
        earlier_decay: in [0, 1], the factor by which w changes from epoch to epoch.
        eps: see `heterogeneous_kd_loss`.

    Raises:
        ValueError: for a hyper-parameter out of its range, or unequal numbers of layers.

    Example:
        >>> HeterogeneousKd(kernels=["cosine"]).needs.epochs
        True

    Reference:
        Passalis, Tzelepi and Tefas, Heterogeneous Knowledge Distillation Using Information Flow Modeling, CVPR 2020,
        sec. 3, and the authors' code.

    Deviations:
        The authors create a new Adam optimizer in each epoch; here the run's optimizer continues.
    """

    needs = Needs(roles=("maps",), unnamed="features", epochs=True, padded=True)

    def __init__(
        self,
        *,
        positions: Positions = "flattened",
        grid: int | None = None,
        kernels: Sequence[KernelName] = ("cosine", "student_t"),
        divergence: Divergence = "jeffreys",
        earlier_weight: float = 100.0,
        earlier_decay: float = 0.7,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        name = "HeterogeneousKd"
        check.hyperparameters(
            name,
            CHECKS,
            positions=positions,
            grid=grid,
            divergence=divergence,
            earlier_weight=earlier_weight,
            earlier_decay=earlier_decay,
            eps=eps,
        )
        one_kernel = LOSS_CHECKS["kernel"]
        listed = isinstance(kernels, (list, tuple)) and len(kernels) > 0
        if not listed or not all(one_kernel.accepts(kernel) for kernel in kernels):
            check.fail(name, "kernels", f"a list of kernels, each {one_kernel.describe()}", repr(kernels))
        if grid is not None and positions == "averaged":
            check.fail(name, "grid", "None for `positions='averaged'`", grid)
        self.grid = grid
        self.needs = self.needs if positions == "flattened" else Needs(epochs=True)
        self.earlier_weight, self.earlier_decay = earlier_weight, earlier_decay
        self.criteria = nn.ModuleList(
            HeterogeneousKdLoss(kernel=kernel, divergence=divergence, eps=eps) for kernel in kernels
        )

    def build(self, probe: Probe) -> None:
        """Check that the layers are in pairs."""
        probe.pairs(*self.needs.roles)

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the weighted sum over layers and kernels."""
        weight = self.earlier_weight * self.earlier_decay**signals.clock.epoch
        pairs = [(self._rows(student), self._rows(teacher)) for student, teacher in signals.pairs(*self.needs.roles)]
        values = []
        for number, (student, teacher) in enumerate(pairs, 1):
            value = torch.stack([criterion(student, teacher) for criterion in self.criteria]).sum()
            values.append(value if number == len(pairs) else weight * value)
        return {"loss": torch.stack(values).sum()}

    def _rows(self, layer: Tensor) -> Tensor:
        """Return one row for each sample; a map is flattened with all its positions."""
        return (pooled_to(layer, self.grid) if self.grid and layer.dim() > 3 else layer).flatten(1)
