"""Relations to a queue: each sample's similarities to the teacher's embeddings of earlier batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.losses.queue_relation import CHECKS as LOSS_CHECKS
from congruence.losses.queue_relation import QueueRelationLoss
from congruence.methods.method import Method, Needs, Probe, Signals
from congruence.models.projectors import width_projector

CHECKS: Mapping[str, check.Constraint] = {
    "size": check.COUNT,
    **{name: LOSS_CHECKS[name] for name in ("student_temperature", "teacher_temperature")},
}


class QueueRelation(Method):
    """`queue_relation_loss` to the teacher's embeddings of the last `size` samples, first in, first out.

    If widths differ, the student goes through a trained linear map. After the loss, the teacher's rows of the batch
    (from all ranks) enter the queue; the first batch is compared with itself. The queue is the same on every rank, and
    saved in checkpoints.

    Shape:
        features [B, D] of both sides; a loss of shape []. The queue takes size · D numbers.

    Args:
        size: number of embeddings in the queue.
        student_temperature: see the loss.
        teacher_temperature: see the loss.

    Raises:
        ValueError: for a hyper-parameter out of its range.

    Example:
        >>> QueueRelation(size=256).needs.scope
        'sample'

    Reference:
        From the definition, after the public documentation of LightlyTrain.

    Deviations:
        The documentation gives neither a size nor temperatures: the defaults here are ours.
    """

    needs = Needs(scope="sample", memory=True)
    queue: Tensor

    def __init__(self, *, size: int = 1024, student_temperature: float = 0.1, teacher_temperature: float = 0.1) -> None:
        super().__init__()
        check.hyperparameters(
            "QueueRelation",
            CHECKS,
            size=size,
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
        )
        self.size = size
        self.criterion = QueueRelationLoss(
            student_temperature=student_temperature, teacher_temperature=teacher_temperature
        )
        self.projector: nn.Module = nn.Identity()
        self.register_buffer("queue", torch.empty(0))

    def build(self, probe: Probe) -> None:
        """Make the linear map and the empty queue."""
        ((student, teacher),) = probe.pairs()
        self.projector = width_projector(student[1], teacher[1])
        self.queue = torch.empty(0, teacher[1])

    def embed(self, signals: Signals) -> Signals:
        """Project the student's rows."""
        return signals.replace({("student", "main", "features"): (self.projector(signals.one("student")),)})

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Compare both sides' similarities to the queue."""
        queue = self.queue if len(self.queue) else signals.whole.one("teacher")
        return {"loss": self.criterion(signals.one("student"), signals.one("teacher"), queue)}

    def update(self, signals: Signals) -> None:
        """Add the teacher's rows, and drop the oldest."""
        self.queue = torch.cat([self.queue, signals.one("teacher").to(self.queue)])[-self.size :]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Resize the queue to its length in the state."""
        stored = state_dict.get(f"{prefix}queue")
        if stored is not None:
            self.queue = self.queue.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)
