"""Adversarial transfer: a discriminator separates the networks' embeddings, and the student learns to fool it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from congruence.core import check
from congruence.core.numerics import unit, widen
from congruence.methods.method import Method, Needs, Probe, Signals
from congruence.models.projectors import linear_projector

CHECKS: Mapping[str, check.Constraint] = {"normalize": check.Flag()}
_HIDDEN = 64


class Adversarial(Method):
    """Adversarial transfer of embeddings: two opposed losses in one backward.

    With the discriminator D = FC(D_t → 64), batch norm, ReLU, FC(64 → 2), and H the mean over rows and outputs of the
    binary cross-entropy of σ(D):
    "discriminator" = H over the rows of both networks, teacher = [1, 0], student = [0, 1], with the student detached;
    "adversarial" = H over the student's rows = [1, 0], with D frozen.

    If widths differ, a trained linear map brings the student's embedding to the teacher's width; it is trained with the
    student. In the paper, embeddings have width 128 (`teacher_head` in a configuration), so D starts with FC(128 → 64).
    In both losses the discriminator sees the rows of both networks together, so that its batch norm uses the same
    statistics.

    Shape:
        features [B, D_s] and [B, D_t]; two losses of shape [].

    Args:
        normalize: show the discriminator rows of length 1, of the student after its map. False shows them as they are,
            as the paper does: the student's lengths then run away from the teacher's, and with them its accuracy.

    Raises:
        ValueError: for more than one layer on a side, or a hyper-parameter out of its range.

    Example:
        >>> Adversarial().needs.roles
        ('features',)

    Reference:
        Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019, sec. 4.1, after Xu, Hsu and Huang,
        Training Shallow and Thin Networks for Acceleration via Knowledge Distillation with Conditional Adversarial
        Networks, 2018.

    Deviations:
        Discriminator and student step together after one backward. The gradients equal those of two backwards; the
        student's loss uses the discriminator from before its step. The paper gives no weights; both are 1 here. The
        sigmoid is part of the cross-entropy, which is then finite for any output. Rows have length 1 by default, unlike
        the paper's (`normalize=False`), since students lose less by them.
    """

    needs = Needs()
    own_parts = ("discriminator",)
    discriminator: nn.Sequential

    def __init__(self, *, normalize: bool = True) -> None:
        super().__init__()
        check.hyperparameters("Adversarial", CHECKS, normalize=normalize)
        self.normalize = normalize
        self.projector: nn.Module = nn.Identity()

    def build(self, probe: Probe) -> None:
        """Make the discriminator for the teacher's width, and the student's projector."""
        for model in ("student", "teacher"):
            layers = len(probe.shapes[model, "features"])
            if layers != 1:
                raise ValueError(f"`Adversarial` needs one layer on each side, got {layers} of the {model}.")
        student, teacher = probe.width("student"), probe.width("teacher")
        self.projector = nn.Identity() if student == teacher else linear_projector(student, teacher)
        self.discriminator = nn.Sequential(
            nn.Linear(teacher, _HIDDEN), nn.BatchNorm1d(_HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 2)
        )

    def embed(self, signals: Signals) -> Signals:
        """Project the student's rows; both sides' get length 1 with `normalize`."""
        sides = {"student": self.projector(signals.one("student")), "teacher": signals.one("teacher")}
        if self.normalize:
            sides = {name: unit(widen(rows)) for name, rows in sides.items()}
        return signals.replace({(name, "main", "features"): (rows,) for name, rows in sides.items()})

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the losses of the discriminator and of the student."""
        student, teacher = signals.one("student"), signals.one("teacher")
        frozen = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        both = self._discriminate(student.detach(), teacher, {})
        students = self._discriminate(student, teacher, frozen)[: len(student)]
        sides = torch.arange(2, device=both.device).repeat_interleave(len(student))
        return {
            "discriminator": F.binary_cross_entropy_with_logits(
                both, torch.stack([sides, 1 - sides], 1).to(both.dtype)
            ),
            "adversarial": F.binary_cross_entropy_with_logits(students, _teacher_like(students)),
        }

    def update(self, signals: Signals) -> None:
        """Update the batch norm's running statistics once for each batch; `loss` runs it twice without doing so."""
        if self.training:
            self.discriminator(self._rows(signals.one("student"), signals.one("teacher")))

    def _discriminate(self, student: Tensor, teacher: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """Run the discriminator with these parameters, and copies of its buffers, over both networks' rows."""
        buffers = {name: value.clone() for name, value in self.discriminator.named_buffers()}
        return widen(functional_call(self.discriminator, {**buffers, **parameters}, (self._rows(student, teacher),)))

    def _rows(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return both networks' rows, in the discriminator's type."""
        return torch.cat([student, teacher]).to(next(self.discriminator.parameters()).dtype)


def _teacher_like(outputs: Tensor) -> Tensor:
    targets = torch.zeros_like(outputs)
    targets[:, 0] = 1
    return targets
