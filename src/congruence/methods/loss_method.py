"""The method that is only a loss over tapped tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.methods.method import Method, Needs, Probe, Signals
from congruence.methods.token_pairs import token_pairs
from congruence.models.projectors import linear_projector, map_projector


class LossMethod(Method):
    """Applies a loss module to one role, layer by layer, and sums over the layers; or once to the lists of layers.

    The loss gets its tensors in the library's order: student, teacher (if needed), labels (if needed; a loss that takes
    labels of each side gets the batch's labels twice). A loss of tokens gets equal numbers of tokens on both sides,
    averaged to the smaller of two grids, and, if some are padding, `mask=` bool [B, N], the tokens that are real on
    both sides.

    Args:
        loss: the module; its result is one number (`reduction="mean"` if it has that argument).
        needs: the method's needs, with a single role.
        project: add a trained linear map (a 1×1 convolution on maps) to the student's side if widths differ.
        labels_of_each: whether the loss takes labels of the student's rows and then of the teacher's.
        listed: whether the loss takes all layers of a side as one list, shallow to deep.

    Raises:
        ValueError: for anything but a loss module, or needs with more than one role.
    """

    def __init__(
        self,
        loss: nn.Module,
        needs: Needs,
        *,
        project: bool = False,
        labels_of_each: bool = False,
        listed: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(loss, nn.Module) or isinstance(loss, Method):
            check.fail("LossMethod", "loss", "a loss module", type(loss).__name__)
        if len(needs.roles) != 1 or needs.students != "each":
            check.fail("LossMethod", "needs", "of one role and one student at a time", needs)
        self.needs = needs
        self.criterion = loss
        self.project = project
        self.labels_of_each = labels_of_each
        self.listed = listed
        self.projectors = nn.ModuleList()

    def build(self, probe: Probe) -> None:
        """Build projectors, and try the loss on tensors of the probed shapes: errors show before the first step."""
        (role,) = self.needs.roles
        students = probe.shapes["student", role]
        pairs = probe.pairs(role) if self.needs.teacher else list(zip(students, students, strict=True))
        self.projectors = nn.ModuleList()
        self.projectors.extend(_projector(*pair) if self.project else nn.Identity() for pair in pairs)
        labels = torch.zeros(students[0][0], dtype=torch.long) if self.needs.labels else None
        with torch.no_grad():
            self.loss(self.embed(replace(probe.zeros(*self.needs.views), labels=labels)))

    def embed(self, signals: Signals) -> Signals:
        """Project the student's rows."""
        (role,) = self.needs.roles
        key = ("student", self.needs.views[0], role)
        return signals.replace(
            {key: tuple(part(rows) for part, rows in zip(self.projectors, signals.tensors[key], strict=True))}
        )

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Sum the loss over the layers."""
        (role,), view = self.needs.roles, self.needs.views[0]
        sides = [signals.layers("student", role, view)]
        if self.needs.teacher:
            sides.append(signals.layers("teacher", role, view))
        extra = (signals.labels,) * (2 if self.labels_of_each else 1) if self.needs.labels else ()
        if role == "tokens":
            layers = list(zip(*sides, strict=True))
            values = [self.criterion(*tokens, *extra, **real) for tokens, real in self._of_tokens(signals, layers)]
        else:
            groups = [sides] if self.listed else zip(*sides, strict=True)
            values = [self.criterion(*group, *extra) for group in groups]
        for value in values:
            if value.dim() != 0:
                name = type(self.criterion).__name__
                raise ValueError(
                    f"`{name}` must return one number for a batch, got shape {check.shape(value)} (is `reduction` "
                    f"set?)."
                )
        return {"loss": torch.stack(values).sum()}

    def counted(self, signals: Signals) -> Tensor:
        """Return what the loss's mean divides by, where it says so itself (`counted` of its labels)."""
        of_labels = getattr(self.criterion, "counted", None)
        if of_labels is None or signals.labels is None:
            return super().counted(signals)
        counted: Tensor = of_labels(signals.labels)
        return counted

    def _of_tokens(
        self, signals: Signals, groups: list[tuple[Tensor, ...]]
    ) -> Iterator[tuple[tuple[Tensor, ...], dict[str, Tensor]]]:
        """Yield the loss's arguments for each layer: equally many tokens on both sides, and the mask of real ones."""
        view = self.needs.views[0]
        if self.needs.teacher:
            for pair in token_pairs(signals, view):
                yield (pair.student, pair.teacher), {} if pair.real is None else {"mask": pair.real}
            return
        masks = signals.masks.get(("student", view, "tokens"), (None,) * len(groups))
        for group, mask in zip(groups, masks, strict=True):
            yield group, {} if mask is None else {"mask": mask}


def _projector(student: torch.Size, teacher: torch.Size) -> nn.Module:
    """Return a map from a student's width to a teacher's, the identity if they are equal."""
    axis = -1 if len(student) == 3 else 1  # tokens [B, N, C]
    widths = student[axis], teacher[axis if len(teacher) == len(student) else 1]
    if widths[0] == widths[1]:
        return nn.Identity()
    return linear_projector(*widths) if len(student) < 4 else map_projector(*widths, dimensions=len(student))
