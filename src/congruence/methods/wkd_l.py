"""WKD of logits: transport of probability between classes, at a lower cost between similar classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from congruence.core import check
from congruence.losses.wkd import CHECKS as LOSS_CHECKS
from congruence.losses.wkd import COST_CHECKS, Compared, WassersteinLogitLoss, class_cost_matrix
from congruence.methods.method import Method, Needs, Probe, Signals

CHECKS: Mapping[str, check.Constraint] = {
    **{name: LOSS_CHECKS[name] for name in ("temperature", "regularization", "iterations")},
    "non_target_weight": LOSS_CHECKS["weight"],
    **COST_CHECKS,
    "samples": check.Real(low=2, closed="low", integer=True),
}


class WassersteinLogits(Method):
    """`wasserstein_logit_loss` with the labels, and with costs between classes that are computed once.

    L = mean_b [ −p_y log q_y + w ⟨P, M⟩ ] with P the transport plan of a few Sinkhorn iterations between the softened
    outputs over all classes but the label's, and M the cost.
    Unless it is given, the cost is the `class_cost_matrix` of the teacher's features of each class's first samples in
    the first epoch. It is computed at the end of that epoch and saved in checkpoints; until then all classes have the
    same cost 1 − exp(−κ).

    Shape:
        logits [B, C] and features [B, D] of both sides (the student's features are not read), labels [B]; a loss of
        shape [].

    Args:
        non_target_weight: w >= 0, the `weight` of the function.
        temperature: T > 0.
        regularization: ε > 0 of the Sinkhorn iteration.
        iterations: number of iterations; the published 10 are far from converged.
        sharpness: κ >= 0 of the cost; 0 leaves the cost unchanged.
        compared: "covariances" or "samples", see `class_cost_matrix`.
        samples: samples of each class for the cost, at least two; C · samples · D numbers are stored during the first
            epoch.
        cost: [C, C], finite numbers >= 0; None for the cost from the features.

    Raises:
        ValueError: for a hyper-parameter out of its range, or a cost of another size than the logits.

    Example:
        >>> WassersteinLogits(cost=[[0.0, 1.0], [1.0, 0.0]]).needs.labels
        True

    Reference:
        Lv et al., Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation, NeurIPS 2024, and
        the authors' code: w is 600 (T = 8) or 200 (T = 6) on CIFAR-100 and 30 (T = 2) on ImageNet; it falls as half a
        cosine, on CIFAR-100 from the 150th of 240 epochs on.

    Deviations:
        The authors compute the cost before training, and pair the samples of two classes by position ("samples"):
        another order within a class gives other costs. The mean over all orders does not show which classes are
        similar: the mean of ‖X_jᵀ P X_i‖²_F over permutations P of n centred samples is ‖X_i‖²_F ‖X_j‖²_F / (n − 1). By
        default covariances are compared instead, which need no pairs. A class with fewer samples is compared by those
        it has; a class without any has the largest cost to all others.
    """

    needs = Needs(roles=("logits", "features"), labels=True, scope="labelled", epochs=True)
    costs: Tensor
    # [C · samples + 1, D], the last row for samples that are not kept; empty once the costs are computed
    gathered: Tensor
    counts: Tensor

    def __init__(
        self,
        *,
        non_target_weight: float = 600.0,
        temperature: float = 8.0,
        regularization: float = 0.05,
        iterations: int = 10,
        sharpness: float = 1.0,
        compared: Compared = "covariances",
        samples: int = 16,
        cost: Tensor | Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        table = {
            "non_target_weight": non_target_weight,
            "temperature": temperature,
            "regularization": regularization,
            "iterations": iterations,
            "sharpness": sharpness,
            "compared": compared,
            "samples": samples,
        }
        check.hyperparameters("WassersteinLogits", CHECKS, **table)
        self.criterion = WassersteinLogitLoss(
            weight=non_target_weight, temperature=temperature, regularization=regularization, iterations=iterations
        )
        self.sharpness, self.compared, self.samples = sharpness, compared, samples
        self.given = None if cost is None else _checked(cost)
        if self.given is not None:
            self.needs = replace(self.needs, roles=("logits",), epochs=False)
        for name in ("costs", "gathered", "counts"):
            self.register_buffer(name, torch.empty(0))

    def build(self, probe: Probe) -> None:
        """Make the buffers, and try the loss on tensors of the probed shapes."""
        classes = probe.width("student", "logits")
        if self.given is not None:
            self.costs = self.given.clone()
        else:
            highest = -math.expm1(-self.sharpness) if self.sharpness > 0 else 1.0
            self.costs = highest * (1 - torch.eye(classes))
            self.gathered = torch.zeros(classes * self.samples + 1, probe.width("teacher"))
            self.counts = torch.zeros(classes, dtype=torch.int64)
        if self.costs.shape != (classes, classes):
            check.fail("WassersteinLogits", "cost", f"of shape [{classes}, {classes}]", check.shape(self.costs))
        labels = torch.zeros(probe.shapes["student", "logits"][0][0], dtype=torch.long)
        with torch.no_grad():
            self.loss(replace(probe.zeros(), labels=labels))

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the loss of the batch."""
        student, teacher = (signals.one(side, "logits") for side in ("student", "teacher"))
        return {"loss": self.criterion(student, teacher, self.costs.to(student.device), signals.labels)}

    def update(self, signals: Signals) -> None:
        """Keep the teacher's features of the first samples of each class."""
        if not self.gathered.numel() or signals.labels is None:
            return
        classes, last = len(self.counts), len(self.gathered) - 1
        labels = signals.labels.long()
        of_class = labels[:, None] == torch.arange(classes, device=labels.device)  # unlabelled samples have no class
        own = labels.clamp(min=0)
        places = self.counts[own] + of_class.cumsum(0).gather(1, own[:, None]).squeeze(1) - 1
        kept = (labels >= 0) & (places < self.samples)
        places = torch.where(kept, own * self.samples + places, last)
        self.gathered.index_copy_(0, places, signals.one("teacher").to(self.gathered.dtype))
        self.counts.add_(of_class.sum(0)).clamp_(max=self.samples)

    def end_epoch(self) -> None:
        """Compute the costs from the first epoch's features, and free these."""
        if not self.gathered.numel() or not self.counts.any():
            return
        features = self.gathered[:-1].unflatten(0, (-1, self.samples))
        missing = torch.arange(self.samples, device=features.device) >= self.counts[:, None]
        features = features.masked_fill(missing[:, :, None], 0)
        # A missing sample is replaced by the class's mean, which adds nothing to its covariance.
        means = features.sum(1) / self.counts.clamp(min=1)[:, None]
        features = torch.where(missing[:, :, None], means[:, None], features)
        costs = class_cost_matrix(features, sharpness=self.sharpness, compared=self.compared)
        self.costs = costs.to(self.costs)
        self.gathered, self.counts = self.gathered.new_empty(0), self.counts.new_empty(0)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Take the lengths that the state's buffers have."""
        for name, buffer in list(self.named_buffers(recurse=False)):
            stored = state_dict.get(f"{prefix}{name}")
            if stored is not None:
                setattr(self, name, buffer.new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _checked(cost: Tensor | Sequence[Sequence[float]]) -> Tensor:
    try:
        costs = torch.as_tensor(cost, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        costs = torch.empty(0)
    square = costs.dim() == 2 and costs.shape[0] == costs.shape[1] > 1
    if not square or not torch.isfinite(costs).all() or (costs < 0).any():
        check.fail("WassersteinLogits", "cost", "a square of finite numbers >= 0, or None", repr(cost)[:60])
    return costs.detach()
