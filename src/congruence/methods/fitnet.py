"""FitNet's hints through a trained regressor, which is discarded after training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.losses.fitnet import hint_loss
from congruence.methods.method import Method, Needs, Probe, Signals
from congruence.models.norms import BatchStatistics
from congruence.models.projectors import linear_projector


class FitNet(Method):
    """`hint_loss` between the teacher's layer and a trained regressor r of the student's layer, summed over the layers.

    L = mean over elements of (r(s) − t)². On maps r is a convolution with bias, batch norm and ReLU: 1×1 where the
    sizes are equal, 3×3 with stride 2 where the student's is twice the teacher's, transposed 4×4 with stride 2 where it
    is half of it, else of kernel 1 + s_H − t_H by 1 + s_W − t_W. If the student's map is smaller in another ratio, r is
    1×1 and the teacher's map is average-pooled. On videos [B, C, T, H, W] r is 1×1×1 and the larger side is pooled. On
    embeddings and tokens r is linear; padded tokens do not count.

    The default layer is the last map of each model; name others with `student_layer` and `teacher_layer`. The paper
    takes the middle of both networks, the common CIFAR benchmark the second of three stages. The paper trains in two
    stages, first with this term alone up to the guided layer, then with `kd`: the recipe digits/fitnet_two_stage.

    Shape:
        a layer [B, C, H, W] on each side (sizes may differ), or [B, D], or [B, T, D]; returns [].

    Raises:
        ValueError: for maps on one side only, when the term is built.

    Example:
        >>> FitNet().needs.roles
        ('maps',)

    Reference:
        Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, eq. 3; the regressor of the common CIFAR benchmark.

    Deviations:
        The paper's regressor is a convolution alone. Here the batch norm keeps no running statistics: it uses the rows
        of all ranks, and in evaluation those of the batch.
    """

    needs = Needs(roles=("maps",), stages=1, padded=True)

    def __init__(self) -> None:
        super().__init__()
        self.regressors = nn.ModuleList()

    def build(self, probe: Probe) -> None:
        """Make a regressor for each layer."""
        self.regressors = nn.ModuleList(regressor(*shapes) for shapes in probe.pairs("maps"))
        zeros = {key: tuple(torch.zeros(shape) for shape in shapes) for key, shapes in _by_view(probe).items()}
        with torch.no_grad():
            self.loss(Signals(zeros, ("student",)))

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Sum the loss over the layers.

        The regressors work on the gathered rows, so that ranks share the statistics of their batch norms.
        """
        masks = [signals.masks.get((side, "main", "maps")) for side in ("student", "teacher")]
        values = []
        for number, (part, (student, teacher)) in enumerate(zip(self.regressors, signals.pairs("maps"), strict=True)):
            real = [of_side[number] for of_side in masks if of_side is not None]
            values.append(_hint(part(student), teacher, [mask for mask in real if mask is not None]))
        return {"loss": torch.stack(values).sum()}


def _hint(student: Tensor, teacher: Tensor, masks: list[Tensor]) -> Tensor:
    """Return the loss over the tokens that all masks mark as real, averaged first over each sample's tokens."""
    if not masks or student.dim() != 3 or teacher.dim() != 3:
        return hint_loss(student, teacher)
    real = torch.stack(masks).all(0)
    kept = (side.masked_fill(~real.unsqueeze(2), 0) for side in (student, teacher))
    return (hint_loss(*kept, reduction="none") * (real.shape[1] / real.sum(1))).mean()


def _by_view(probe: Probe) -> dict[tuple[str, str, str], tuple[torch.Size, ...]]:
    return {(model, "main", role): shapes for (model, role), shapes in probe.shapes.items()}


def regressor(student: torch.Size, teacher: torch.Size) -> nn.Module:
    """Return an untrained map from a student's layer to a teacher's, given their shapes.

    Example:
        >>> regressor(torch.Size([2, 8, 8, 8]), torch.Size([2, 16, 4, 4]))(torch.ones(2, 8, 8, 8)).shape
        torch.Size([2, 16, 4, 4])
    """
    if len(student) != len(teacher) or len(student) not in (2, 3, 4, 5):
        raise ValueError(
            f"`FitNet` compares maps with maps, tokens with tokens or rows with rows, got {list(student)} of the "
            f"student and {list(teacher)} of the teacher."
        )
    if len(student) < 4:
        return linear_projector(student[-1], teacher[-1])
    if len(student) == 5:
        return nn.Sequential(nn.Conv3d(student[1], teacher[1], 1), BatchStatistics(teacher[1]), nn.ReLU())
    (height, width), (theirs_high, theirs_wide) = student[2:], teacher[2:]
    channels = student[1], teacher[1]
    convolution: nn.Module
    if (height, width) == (2 * theirs_high, 2 * theirs_wide):
        convolution = nn.Conv2d(*channels, 3, stride=2, padding=1)
    elif (2 * height, 2 * width) == (theirs_high, theirs_wide):
        convolution = nn.ConvTranspose2d(*channels, 4, stride=2, padding=1)
    else:
        convolution = nn.Conv2d(*channels, (1 + max(0, height - theirs_high), 1 + max(0, width - theirs_wide)))
    return nn.Sequential(convolution, BatchStatistics(teacher[1]), nn.ReLU())
