"""KD²M with the joint Wasserstein distance of features and predictions."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.numerics import as_float64, widen
from congruence.losses.joint_wasserstein import JointWassersteinLoss, LabelCost
from congruence.methods.method import Method, Needs, Probe, Signals
from congruence.models.projectors import linear_projector

LOG = logging.getLogger("congruence")


class JointWasserstein(Method):
    """Apply `joint_wasserstein_loss` to features and to the softmax of the logits of both networks.

    If widths differ, a trained linear map brings the student's features to the teacher's width. Labels are not used:
    the paper's equation 4 compares predictions.

    Args:
        beta: weight of the label cost.
        label_cost: "squared_euclidean", "euclidean" or "cross_entropy". A run that an older version started with
            "euclidean" used the squared cost, and continues with it.

    Raises:
        ValueError: for a hyper-parameter out of its range.
    """

    needs = Needs(roles=("features", "logits"))

    def __init__(self, *, beta: float = 1.0, label_cost: LabelCost = "squared_euclidean") -> None:
        super().__init__()
        self.criterion = JointWassersteinLoss(beta=beta, label_cost=label_cost)
        self.projector: nn.Module = nn.Identity()

    def build(self, probe: Probe) -> None:
        """Build the projector, and try the loss on tensors of the probed shapes."""
        for role in self.needs.roles:
            for model in ("student", "teacher"):
                layers = len(probe.shapes[model, role])
                if layers != 1:
                    raise ValueError(f"`JointWasserstein` reads one layer of {role} a side, got {layers}.")
        # configurations of older versions say this and mean the squared cost
        if self.criterion.label_cost == "euclidean":
            LOG.warning(
                "`JointWasserstein`: label_cost='euclidean' means ‖y − y'‖; the squared cost, which had this name in "
                "the first version, is now 'squared_euclidean'."
            )
        check.several_classes("JointWasserstein", logits=torch.empty(probe.shapes["student", "logits"][0]))
        student, teacher = probe.width("student"), probe.width("teacher")
        self.projector = nn.Identity() if student == teacher else linear_projector(student, teacher)
        zeros = {
            (model, "main", role): tuple(torch.zeros(shape) for shape in shapes)
            for (model, role), shapes in probe.shapes.items()
        }
        with torch.no_grad():
            self.loss(self.embed(Signals(zeros, ("student",))))

    def embed(self, signals: Signals) -> Signals:
        """Project the student's rows."""
        return signals.replace({("student", "main", "features"): (self.projector(signals.one("student")),)})

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the loss of the batch."""
        # In float64 the probability of a very low logit is small but not 0, and keeps its gradient.
        student, teacher = (
            as_float64(widen(signals.one(model, "logits"))).softmax(1) for model in ("student", "teacher")
        )
        return {"loss": self.criterion(signals.one("student"), signals.one("teacher"), student, teacher)}
