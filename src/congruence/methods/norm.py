"""N-to-one matching: the student's map, widened to N times the teacher's channels by a trained projector."""

from __future__ import annotations

import torch
from torch import nn

from congruence.core import check
from congruence.losses.norm import NToOneLoss
from congruence.methods.method import Needs
from congruence.methods.projected import Projected, normed_convolution

CHECKS = {"copies": check.COUNT}


class NToOne(Projected):
    """`n_to_one_loss` of the teacher's map and the student's, widened to N times its channels.

    L = Σ_layers Σ_g mean (f_g − t)² with f = BN(conv1×1(s)) and f_g the g-th of its N groups of C channels; the larger
    map is max-pooled. The batch norm uses the statistics of the whole batch. The default layer is the last map of each
    model.

    Shape:
        maps [B, C, H, W] of any widths, whose heights and widths are multiples of each other; a loss of shape [].

    Args:
        copies: N, the number of groups.

    Raises:
        ValueError: for a hyper-parameter out of its range, or layers that do not fit, when the term is built.

    Example:
        >>> NToOne(copies=4).needs.roles
        ('maps',)

    Reference:
        Liu et al., NORM: Knowledge Distillation via N-to-One Representation Matching, ICLR 2023, and the authors' code,
        with N = 8 on CIFAR-100.

    Deviations:
        The authors apply a second convolution with batch norm to f and add the result to the map before the student's
        classifier, which changes the deployed model. Here the student is unchanged, and the projector is discarded.
        Their layer norm of all logits, times 2.5, is left out too.
    """

    needs = Needs(roles=("maps",), stages=1)

    def __init__(self, *, copies: int = 8) -> None:
        super().__init__(NToOneLoss())
        check.hyperparameters("NToOne", CHECKS, copies=copies)
        self.copies = copies

    def projector(self, student: torch.Size, teacher: torch.Size) -> nn.Module:
        """Return a convolution 1×1 with batch norm."""
        return normed_convolution("NToOne", student, teacher, copies=self.copies)
