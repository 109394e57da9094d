"""Class attention transfer: class maps from the networks' own classifiers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from congruence.losses.catkd import ClassAttentionLoss
from congruence.methods.classifiers import Classifiers, class_maps, classifiers
from congruence.methods.method import Method, Needs, Probe, Signals


class ClassAttention(Method):
    """`class_attention_loss` of class maps: each network's classifier applied at each position of its last map.

    L = mean over samples, classes and regions of (A_s − A_t)² with A the map of W f + b, pooled to r × r regions, and
    of length 1 if `normalize`. The classifier is trained by it too. The default layer is the last map of each model.

    Shape:
        one map [B, C, H, W] of each model; a loss of shape [].

    Args:
        resolution: r, regions along a side.
        normalize: whether each class map is scaled to length 1, as the authors do for a student of another
            architecture.
        student_classifier: path of the student's Linear; None for the last one that takes the map's channels.
        teacher_classifier: path of the teacher's Linear; None as for the student.

    Raises:
        ValueError: for a hyper-parameter out of its range, or models without such classifiers.

    Example:
        >>> ClassAttention(resolution=4, normalize=True).needs.roles
        ('maps',)

    Reference:
        Guo et al., Class Attention Transfer Based Knowledge Distillation, CVPR 2023, and the authors' code: the weight
        is 15 for R32x4→R8x4, 0.7 to 15 for pairs of one architecture; normalised 15 to 600.

    Deviations:
        The authors rebuild the networks with the classifier as a convolution before pooling, which computes the same
        logits; here the networks stay as they are.
    """

    needs = Needs(roles=("maps",), stages=1, scope="sample")
    _classifiers: Classifiers

    def __init__(
        self,
        *,
        resolution: int = 2,
        normalize: bool = False,
        student_classifier: str | None = None,
        teacher_classifier: str | None = None,
    ) -> None:
        super().__init__()
        self.criterion = ClassAttentionLoss(resolution=resolution, normalize=normalize)
        self.paths = student_classifier, teacher_classifier

    def build(self, probe: Probe) -> None:
        """Find the classifiers."""
        self._classifiers = classifiers(probe, *self.paths)
        with torch.no_grad():
            self.loss(probe.zeros())

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the loss of the batch."""
        ((student, teacher),) = signals.pairs("maps")
        student, teacher = (
            class_maps(each, of) for each, of in zip((student, teacher), self._classifiers, strict=True)
        )
        return {"loss": self.criterion(student, teacher)}
