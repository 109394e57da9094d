"""Floor 2: the methods' losses, each a pure function and a thin module of the same name in CamelCase."""

from congruence.losses.cckd import CorrelationCongruenceLoss, correlation_congruence_loss
from congruence.losses.ce import CrossEntropyLoss, cross_entropy_loss
from congruence.losses.intra_class import IntraClassContrastiveLoss, intra_class_contrastive_loss
from congruence.losses.kd import DistillationLoss, distillation_loss
from congruence.losses.mimic import MimicLoss, mimic_loss
from congruence.losses.perception_coherence import PerceptionCoherenceLoss, perception_coherence_loss
from congruence.losses.pkt import PktLoss, pkt_loss
from congruence.losses.soft_target_cross_entropy import SoftTargetCrossEntropy, soft_target_cross_entropy

__all__ = [
    "CorrelationCongruenceLoss",
    "CrossEntropyLoss",
    "DistillationLoss",
    "IntraClassContrastiveLoss",
    "MimicLoss",
    "PerceptionCoherenceLoss",
    "PktLoss",
    "SoftTargetCrossEntropy",
    "correlation_congruence_loss",
    "cross_entropy_loss",
    "distillation_loss",
    "intra_class_contrastive_loss",
    "mimic_loss",
    "perception_coherence_loss",
    "pkt_loss",
    "soft_target_cross_entropy",
]
