"""WKD of logits: probability moved between classes, at a cost that is smaller for classes that are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from congruence.core import check
from congruence.losses.wkd import CHECKS as LOSS_CHECKS
from congruence.losses.wkd import COST_CHECKS, WassersteinLogitLoss
from congruence.methods.classifiers import find_classifier
from congruence.methods.method import Method, Needs, Probe, Signals

CHECKS: Mapping[str, check.Constraint] = {
    **{name: LOSS_CHECKS[name] for name in ("temperature", "regularization", "iterations")},
    "non_target_weight": LOSS_CHECKS["weight"],
    "sharpness": COST_CHECKS["sharpness"],
}


class WassersteinLogits(Method):
    """`wasserstein_logit_loss` with the labels, at costs between classes that are found once.

    L = mean_b [ −p_y log q_y + w ⟨P, M⟩ ] with P the plan that a few of Sinkhorn's iterations give between the softened
    outputs over the classes other than the label's, and M their cost.

    The cost is given, as `class_cost_matrix` makes it of the teacher's training features; by default it is that between
    the rows of the teacher's last Linear, less their mean: 1 − exp(−κ (1 − max(cos, 0))).

    Shape:
        logits [B, C] of both sides, labels [B]; a loss of shape [].

    Args:
        non_target_weight: w >= 0, the `weight` of the function.
        temperature: T > 0.
        regularization: ε > 0, of the iteration.
        iterations: how many; the published 10 are far from converged.
        sharpness: κ >= 0 of the default cost; 0 leaves it as it is.
        cost: [C, C], nothing else than finite numbers >= 0; None for the default.
        teacher_classifier: path of the Linear whose rows give the default cost; None for the last one.

    Raises:
        ValueError: for a hyper-parameter out of its range, a cost of another size, or a teacher without a Linear where
            no cost is given.

    Example:
        >>> WassersteinLogits(cost=[[0.0, 1.0], [1.0, 0.0]]).needs.labels
        True

    Reference:
        Lv et al., Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation, NeurIPS 2024, and
        the authors' code: w is 600 (T = 8) or 200 (T = 6) on CIFAR-100 and 30 (T = 2) on ImageNet, falling as half a
        cosine, on CIFAR-100 from the 150th of 240 epochs on.

    Deviations:
        The authors take the cost from the CKA of the classes' training features, whose samples they pair by position:
        another order within a class gives other costs. Give `cost=class_cost_matrix(features)` for theirs, or
        `compared="covariances"` for what no order changes. The weight is constant here unless the term says otherwise
        (`decay`).
    """

    needs = Needs(roles=("logits",), labels=True, scope="labelled")
    costs: Tensor

    def __init__(
        self,
        *,
        non_target_weight: float = 600.0,
        temperature: float = 8.0,
        regularization: float = 0.05,
        iterations: int = 10,
        sharpness: float = 1.0,
        cost: Tensor | Sequence[Sequence[float]] | None = None,
        teacher_classifier: str | None = None,
    ) -> None:
        super().__init__()
        table = {
            "non_target_weight": non_target_weight,
            "temperature": temperature,
            "regularization": regularization,
            "iterations": iterations,
            "sharpness": sharpness,
        }
        check.hyperparameters("WassersteinLogits", CHECKS, **table)
        self.criterion = WassersteinLogitLoss(
            weight=non_target_weight, temperature=temperature, regularization=regularization, iterations=iterations
        )
        self.sharpness = sharpness
        self.given = None if cost is None else _checked(cost)
        self.path = teacher_classifier
        self.register_buffer("costs", torch.empty(0))

    def build(self, probe: Probe) -> None:
        """Find the costs, and try the loss on tensors of the probed shapes."""
        ((student, _),) = probe.pairs("logits")
        costs = self._of_teacher(probe) if self.given is None else self.given
        if costs.shape != (student[1], student[1]):
            check.fail("WassersteinLogits", "cost", f"of shape [{student[1]}, {student[1]}]", check.shape(costs))
        self.register_buffer("costs", costs.clone())
        with torch.no_grad():
            ((ours, theirs),) = probe.zeros().pairs("logits")
            self._of(ours, theirs, torch.zeros(len(ours), dtype=torch.long))

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the loss of the batch."""
        if signals.labels is None:
            raise ValueError("`WassersteinLogits` needs labels, the batch has none.")
        return {"loss": self._of(signals.one("student", "logits"), signals.one("teacher", "logits"), signals.labels)}

    def _of(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        value: Tensor = self.criterion(student, teacher, self.costs.to(student.device), labels)
        return value

    def _of_teacher(self, probe: Probe) -> Tensor:
        rows = find_classifier(probe.modules["teacher"], "teacher", None, self.path).weight.detach().double()
        rows = F.normalize(rows - rows.mean(0), dim=1)
        costs = (1 - (rows @ rows.T).clamp(min=0)).clamp(min=0).fill_diagonal_(0)
        return (-torch.expm1(-self.sharpness * costs) if self.sharpness > 0 else costs).float()


def _checked(cost: Tensor | Sequence[Sequence[float]]) -> Tensor:
    try:
        costs = torch.as_tensor(cost, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        costs = torch.empty(0)
    square = costs.dim() == 2 and costs.shape[0] == costs.shape[1] > 1
    if not square or not torch.isfinite(costs).all() or (costs < 0).any():
        check.fail("WassersteinLogits", "cost", "a square of finite numbers >= 0, or None", repr(cost)[:60])
    return costs.detach()
