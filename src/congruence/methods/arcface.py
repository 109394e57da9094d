"""ArcFace as a base objective: a classifier of unit embeddings with an angular margin between classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from congruence.core import check
from congruence.core.numerics import widen
from congruence.methods.method import Method, Needs, Probe, Signals

CHECKS: Mapping[str, check.Constraint] = {
    "margin": check.Real(low=0, high=math.pi / 2, closed="low"),
    "scale": check.POSITIVE,
}


class ArcFace(Method):
    """Cross-entropy over the angles between an embedding and one trained direction for each class, with a margin.

    With θ_c the angle between f and class c's direction: ℓ = −log( e^{s cos(θ_y + m)} / (e^{s cos(θ_y + m)} +
    Σ_{c≠y} e^{s cos θ_c}) ), mean over the labelled rows of the batch, 0 where there is none.

    It trains the student's embedding without using its last Linear, together with or before a relational term. The
    directions belong to the term: they are saved in checkpoints, not in the student's file. The loss is that of
    pytorch-metric-learning.

    Shape:
        features [B, D], labels [B]; a loss of shape [].

    Args:
        margin: m in [0, π/2), in radians.
        scale: s > 0.

    Raises:
        ValueError: for a hyper-parameter out of its range; if the extra is not installed, when the term is built.

    Example:
        >>> ArcFace(margin=0.3).needs.teacher
        False

    Reference:
        Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition, CVPR 2019, eq. 3.
    """

    needs = Needs(teacher=False, labels=True, facts=True, scope="labelled")
    criterion: Any

    def __init__(self, *, margin: float = 0.5, scale: float = 64.0) -> None:
        super().__init__()
        check.hyperparameters("ArcFace", CHECKS, margin=margin, scale=scale)
        self.margin, self.scale = margin, scale

    def build(self, probe: Probe) -> None:
        """Make a direction for each class."""
        try:
            from pytorch_metric_learning.losses import ArcFaceLoss
        except (ImportError, RuntimeError):
            raise ValueError(
                "it needs pytorch-metric-learning (pip install 'congruence[metric-learning]'), which is not there."
            ) from None
        classes = probe.known_facts().classes
        if classes is None:
            raise ValueError("`ArcFace`: the dataset does not say how many classes it has.")
        self.classes = classes
        width, degrees = probe.width("student"), math.degrees(self.margin)
        self.criterion = ArcFaceLoss(classes, width, margin=degrees, scale=self.scale)

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the mean over the labelled rows."""
        features, labels = signals.one("student"), signals.labels
        if labels is None:
            raise ValueError("`ArcFace` needs labels, the batch has none.")
        check.class_labels("ArcFace", self.classes, unlabelled=True, labels=labels)
        labelled = labels >= 0
        if not labelled.any():
            return {"loss": widen(features).sum() * 0}
        return {"loss": self.criterion(widen(features)[labelled], labels[labelled])}
