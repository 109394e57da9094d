"""Base of the methods that compare the teacher's layer with a trained projection of the student's."""

from __future__ import annotations

import abc
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.methods.method import Method, Probe, Signals
from congruence.models.norms import BatchStatistics


class Projected(Method):
    """A loss between the teacher's layer and a trained projection of the student's, summed over the layers.

    The projectors work on the rows of all ranks, so that their batch norms share statistics.

    Args:
        criterion: the loss module, called with the student's and the teacher's tensor.
    """

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion
        self.projectors = nn.ModuleList()

    @abc.abstractmethod
    def projector(self, student: torch.Size, teacher: torch.Size) -> nn.Module:
        """Return an untrained projector for a pair of layers of these shapes."""

    def build(self, probe: Probe) -> None:
        """Make the projectors, and try the loss on tensors of the probed shapes."""
        (role,) = self.needs.roles
        self.projectors = nn.ModuleList(self.projector(*pair) for pair in probe.pairs(role))
        with torch.no_grad():
            self.loss(probe.zeros())

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the sum over the layers."""
        (role,) = self.needs.roles
        pairs = zip(self.projectors, signals.pairs(role), strict=True)
        values = [self.criterion(part(student), teacher) for part, (student, teacher) in pairs]
        return {"loss": torch.stack(values).sum()}


def normed_convolution(method: str, student: torch.Size, teacher: torch.Size, *, copies: int = 1) -> nn.Sequential:
    """Return a 1×1 convolution without bias and a batch norm, from a student's channels to `copies` times a teacher's.


    Raises:
        ValueError: for a layer that is not a map [B, C, H, W].

    Example:
        >>> part = normed_convolution("NToOne", torch.Size([2, 3, 4, 4]), torch.Size([2, 5, 4, 4]), copies=2)
        >>> part(torch.ones(2, 3, 4, 4)).shape
        torch.Size([2, 10, 4, 4])
    """
    if len(student) != 4 or len(teacher) != 4:
        raise ValueError(
            f"`{method}` compares maps [B, C, H, W], got {list(student)} of the student and {list(teacher)} of the "
            "teacher."
        )
    width = copies * teacher[1]
    return nn.Sequential(nn.Conv2d(student[1], width, 1, bias=False), BatchStatistics(width))
