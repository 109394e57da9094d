"""Changes to the logits before any logit method compares them: standardised, by region, or weighted by uncertainty."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.reduce import Reduction, reduce
from congruence.losses.lskd import standardize_logits
from congruence.losses.sdd import region_logits
from congruence.methods.classifiers import Classifiers, classifiers
from congruence.methods.loss_method import LossMethod
from congruence.methods.method import Clock, Method, Probe, Signals

CHECKS: Mapping[str, check.Constraint] = {
    "standardize": check.Flag(),
    "regions": check.Flag(),
    "uncertainty": check.Real(low=0, optional=True),
}
_OF_LABELS = "ce"  # the part of a method that stays on the raw logits


class ChangedLogits(Method):
    """A logit method applied to changed logits; the changes can be combined freely.

    With ℓ the method's loss, z the logits and U_b = Σ_c p_bc^γ of the teacher's p = softmax(z_t), a constant:
    `standardize`: L = ℓ(z'_s, z'_t), z' of `standardize_logits`; a part "ce" that compares with labels stays on z.
    `regions`: L = mean over 1, 4 and 16 regions of ℓ, z the `region_logits` of the last maps.
    `uncertainty`: L = mean_b U_b ℓ_b, γ the value, over the samples that count in ℓ (and their regions).

    Args:
        method: a method that reads only logits of student and teacher, and perhaps labels.
        standardize: Sun et al. 2024, Logit Standardization in Knowledge Distillation.
        regions: Wei et al. 2024, Scale Decoupled Distillation; the method `sdd` also weights the regions.
        uncertainty: γ > 0; None: all samples have the same weight. Zheng and Yang 2024, Knowledge Distillation Based on
            Transformed Teacher Matching, whose WTTM is `ttm` with γ = `exponent`.

    Raises:
        ValueError: for a method that does not compare logits; with regions or uncertainty, also for one that has no
            value for each sample.

    Example:
        >>> from congruence.methods import row
        >>> ChangedLogits(row("kd").make(), regions=True).needs.roles
        ('maps',)
    """

    _classifiers: Classifiers

    def __init__(
        self, method: Method, *, standardize: bool = False, regions: bool = False, uncertainty: float | None = None
    ) -> None:
        super().__init__()
        given = {"standardize": standardize, "regions": regions, "uncertainty": uncertainty}
        check.hyperparameters("Term", CHECKS, **given)
        words = ", ".join(f"`{name}`" for name, value in given.items() if value)
        if method.needs.roles != ("logits",) or not method.needs.teacher:
            raise ValueError(
                f"`Term`: {words} must be given for a method that compares the logits of student and teacher."
            )
        self.inner = method
        self.standardize, self.uncertainty = standardize, uncertainty
        self.needs = replace(method.needs, roles=("maps",), stages=1, dense=False) if regions else method.needs
        self.rowwise: nn.Module | None = None
        self.reduction: Reduction = "mean"
        if regions or uncertainty is not None:
            if not isinstance(method, LossMethod) or not hasattr(method.criterion, "reduction"):
                name = type(method.criterion if isinstance(method, LossMethod) else method).__name__
                raise ValueError(
                    f"`Term`: {words} must be given for a loss with a value for each sample, got {name}, which has "
                    f"none."
                )
            criterion: Any = copy.deepcopy(method.criterion)
            self.reduction, criterion.reduction = criterion.reduction, "none"
            self.rowwise = criterion

    def build(self, probe: Probe) -> None:
        """Build the method; for regions, on the logits of the networks' classifiers."""
        if self.needs.roles == ("maps",):
            self._classifiers = classifiers(probe, None, None)
            rows = probe.shapes["student", "maps"][0][0]
            sides = zip(("student", "teacher"), self._classifiers, strict=True)
            shapes = {(side, "logits"): (torch.Size([rows, of.out_features]),) for side, of in sides}
            probe = replace(probe, shapes=shapes)
        self.inner.build(probe)

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the method's losses of the changed logits."""
        if self.rowwise is None:
            changed = {key: tuple(map(standardize_logits, logits)) for key, logits in signals.tensors.items()}
            parts = self.inner.loss(signals.replace(changed))
            return {**parts, _OF_LABELS: self.inner.loss(signals)[_OF_LABELS]} if _OF_LABELS in parts else parts
        labels = signals.labels if self.needs.labels else None
        values = [self._rows(self.rowwise, *pair, labels) for pair in self._logits(signals)]
        counted = None if labels is None else labels >= 0
        return {"loss": torch.stack([reduce("Term", each, self.reduction, counted=counted) for each in values]).sum()}

    def _logits(self, signals: Signals) -> list[tuple[Tensor, Tensor]]:
        """Return the logits [B, C, N] of both sides, of N regions or of the whole."""
        if self.needs.roles == ("logits",):
            return [(student.unsqueeze(2), teacher.unsqueeze(2)) for student, teacher in signals.pairs("logits")]
        sides = zip(signals.pairs("maps")[0], self._classifiers, strict=True)
        student, teacher = (region_logits(each, of.weight, of.bias) for each, of in sides)
        return [(student, teacher)]

    def _rows(self, rowwise: nn.Module, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Return the loss of each sample [B], the mean over its regions."""
        count = student.shape[2]
        student, teacher = (each.mT.flatten(0, 1) for each in (student, teacher))
        compared = [standardize_logits(each) for each in (student, teacher)] if self.standardize else [student, teacher]
        of_each = [] if labels is None else [labels.repeat_interleave(count)]
        values: Tensor = rowwise(*compared, *of_each)
        if self.uncertainty is not None:
            values = values * _doubt(teacher.detach(), self.uncertainty)
        return values.view(-1, count).mean(1)

    def update(self, signals: Signals) -> None:
        """Let the method update."""
        self.inner.update(signals)

    def begin_epoch(self, clock: Clock) -> None:
        """Let the method begin an epoch."""
        self.inner.begin_epoch(clock)

    def end_epoch(self) -> None:
        """Let the method end an epoch."""
        self.inner.end_epoch()


def _doubt(logits: Tensor, exponent: float) -> Tensor:
    """Return Σ_c p_c^γ of each row: 1 if the teacher is certain, C^(1 − γ) if all classes are equally likely."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (exponent * wide.log_softmax(1)).exp().sum(1)
