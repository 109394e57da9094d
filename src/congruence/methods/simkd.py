"""SimKD: the student's map, projected, at the teacher's, whose classifier then reads it."""

from __future__ import annotations

import torch
from torch import nn

from congruence.core import check
from congruence.losses.fitnet import HintLoss
from congruence.methods.method import Needs
from congruence.methods.projected import Projected
from congruence.models.norms import BatchStatistics
from congruence.models.reused import transfer

CHECKS = {"factor": check.COUNT}


class ReusedClassifierHint(Projected):
    """`hint_loss` of the teacher's map and the student's behind SimKD's projector.

    L = mean over elements of (transfer(s) − t)², with the larger map average-pooled. With a student that is a
    `congruence.models.ReusedClassifier` the projector is its own, and the student predicts by it and the teacher's
    classifier, as in the paper: name its layer by `student_layer="projector"` where the default, its last map, is
    another. A student of other widths gets a projector that is thrown away, and keeps its own classifier.

    Shape:
        a map [B, C, H, W] on each side; returns [].

    Args:
        factor: the hidden width of a projector made here is C_t / factor.

    Raises:
        ValueError: for layers that are no maps, when the term is built.

    Example:
        >>> ReusedClassifierHint().needs.roles
        ('maps',)

    Reference:
        Chen et al., Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022, eq. 3, and the authors' code,
        in which it is the only term: cross-entropy and soft labels weigh 0.

    Deviations:
        The authors leave the teacher's classifier out of the optimizer; here it is frozen as well.
    """

    needs = Needs(roles=("maps",), stages=1)

    def __init__(self, *, factor: int = 2) -> None:
        super().__init__(HintLoss())
        check.hyperparameters("ReusedClassifierHint", CHECKS, factor=factor)
        self.factor = factor

    def projector(self, student: torch.Size, teacher: torch.Size) -> nn.Module:
        """Return nothing to do where the channels are the teacher's, else the three convolutions."""
        if len(student) != 4 or len(teacher) != 4:
            raise ValueError(
                f"`ReusedClassifierHint` compares maps [B, C, H, W], got {list(student)} of the student and "
                f"{list(teacher)} of the teacher."
            )
        if student[1] == teacher[1]:
            return nn.Identity()
        return transfer(student[1], teacher[1], self.factor, norm=BatchStatistics)
