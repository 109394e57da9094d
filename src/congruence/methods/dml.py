"""Mutual learning: several students that learn from each other."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from congruence.losses.dml import mutual_learning_loss
from congruence.methods.method import Method, Needs, Probe, Signals


class MutualLearning(Method):
    """`mutual_learning_loss` between all pairs of students, without a teacher.

    The part of student k, under its name, is (1/(K−1)) Σ_{l≠k} KL(softmax(z_l) ‖ softmax(z_k)). A term `ce` in the same
    objective applies to each student separately.

    Shape:
        logits [B, C] of each student; a loss of shape [] for each.

    Raises:
        ValueError: for fewer than two students, or students with different classes.

    Reference:
        Zhang et al., Deep Mutual Learning, CVPR 2018.
    """

    needs = Needs(roles=("logits",), teacher=False, students="all", scope="sample")

    def build(self, probe: Probe) -> None:
        """Check that the students can be compared."""
        if len(probe.students) < 2:
            raise ValueError(f"`MutualLearning` needs two students or more, got {len(probe.students)}.")
        zeros = {(n, "main", "logits"): (torch.zeros(probe.shapes[n, "logits"][-1]),) for n in probe.students}
        self.loss(Signals(zeros, probe.students))

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return each student's divergence from the others."""
        logits = {name: signals.one(name, "logits") for name in signals.students}
        return {
            name: torch.stack(
                [mutual_learning_loss(own, other) for rival, other in logits.items() if rival != name]
            ).mean()
            for name, own in logits.items()
        }
