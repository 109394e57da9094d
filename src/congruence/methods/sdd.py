"""Scale-decoupled distillation: the logits of an image's regions, from the networks' own classifiers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from congruence.losses.sdd import Base, ScaleDecoupledLoss, region_logits
from congruence.methods.classifiers import Classifiers, classifiers
from congruence.methods.method import Method, Needs, Probe, Signals


class ScaleDecoupled(Method):
    """`scale_decoupled_loss` of the `region_logits` of the last maps: a logit loss over 1, 4 and 16 regions.

    L = (1/(B N)) Σ_b Σ_r w_br ℓ_br with ℓ the base loss between W f_r + b of both networks, f_r the map averaged over
    the region r, and w_br the complementary weight where the teacher is right in the region and wrong as a whole, or
    the reverse, else 1. The classifier is trained by it too. The default layer is the last map of each model.

    Shape:
        one map [B, C, H, W] of each model, labels [B]; a loss of shape [].

    Args:
        base: "kd", "dkd" or "nkd".
        temperature: T > 0 of the base loss.
        alpha: α >= 0 of "dkd".
        beta: β >= 0 of "dkd".
        gamma: γ >= 0 of "nkd".
        complementary_weight: weight of the regions whose prediction disagrees with the whole image's.
        student_classifier: path of the student's Linear; None for the last one that takes the map's channels.
        teacher_classifier: path of the teacher's Linear; None as for the student.

    Raises:
        ValueError: for a hyper-parameter out of its range, or models without such classifiers.

    Example:
        >>> ScaleDecoupled(base="dkd", beta=8.0).needs.labels
        True

    Reference:
        Wei et al., Scale Decoupled Distillation, CVPR 2024, and the authors' code, with 20 epochs of warm-up.

    Deviations:
        Those of `scale_decoupled_loss` and `region_logits`.
    """

    needs = Needs(roles=("maps",), labels=True, stages=1, scope="labelled")
    _classifiers: Classifiers

    def __init__(
        self,
        *,
        base: Base = "kd",
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 2.0,
        gamma: float = 1.5,
        complementary_weight: float = 2.0,
        student_classifier: str | None = None,
        teacher_classifier: str | None = None,
    ) -> None:
        super().__init__()
        self.criterion = ScaleDecoupledLoss(
            base=base,
            temperature=temperature,
            alpha=alpha,
            beta=beta,
            gamma=gamma,
            complementary_weight=complementary_weight,
        )
        self.paths = student_classifier, teacher_classifier

    def build(self, probe: Probe) -> None:
        """Find the classifiers, and try the loss on tensors of the probed shapes."""
        self._classifiers = classifiers(probe, *self.paths)
        rows = probe.shapes["student", "maps"][0][0]
        with torch.no_grad():
            self._of(*probe.zeros().pairs("maps")[0], torch.zeros(rows, dtype=torch.long))

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the loss of the batch."""
        if signals.labels is None:
            raise ValueError("`ScaleDecoupled` needs labels, the batch has none.")
        ((student, teacher),) = signals.pairs("maps")
        return {"loss": self._of(student, teacher, signals.labels)}

    def _of(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        sides = zip((student, teacher), self._classifiers, strict=True)
        regions = [region_logits(each, of.weight, of.bias) for each, of in sides]
        value: Tensor = self.criterion(*regions, labels)
        return value
