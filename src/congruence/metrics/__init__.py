"""Floor 3: what is measured on a trained student, streamed where it grows with the square of the samples."""

from congruence.metrics.accuracy import accuracy
from congruence.metrics.alignment import effective_kernel_alignment, gram_alignment
from congruence.metrics.batch_coherence import BatchCoherence, batch_coherence
from congruence.metrics.class_ratio import (
    IntraInterBounds,
    IntraInterRatio,
    intra_inter_bounds,
    intra_inter_ratio,
)
from congruence.metrics.kernel import (
    kernel_transfer_bound,
    kernel_transfer_error,
    landmark_transfer_error,
    smallest_landmark_eigenvalue,
)
from congruence.metrics.perception import (
    estimate_perception_coherence,
    global_perception_coherence,
    perception_coherence,
)
from congruence.metrics.preservation import Preservation, order_preservation, rank_preservation
from congruence.metrics.retrieval import precision_at_k, retrieval_map
from congruence.metrics.risk import RiskGap, feature_distance, risk_gap
from congruence.metrics.spread import inter_class_similarity, intra_class_similarity, soft_label_entropy
from congruence.metrics.stability import PerceptionStability, perception_stability

__all__ = [
    "BatchCoherence",
    "IntraInterBounds",
    "IntraInterRatio",
    "PerceptionStability",
    "Preservation",
    "RiskGap",
    "accuracy",
    "batch_coherence",
    "effective_kernel_alignment",
    "estimate_perception_coherence",
    "feature_distance",
    "global_perception_coherence",
    "gram_alignment",
    "inter_class_similarity",
    "intra_class_similarity",
    "intra_inter_bounds",
    "intra_inter_ratio",
    "kernel_transfer_bound",
    "kernel_transfer_error",
    "landmark_transfer_error",
    "order_preservation",
    "perception_coherence",
    "perception_stability",
    "precision_at_k",
    "rank_preservation",
    "retrieval_map",
    "risk_gap",
    "smallest_landmark_eigenvalue",
    "soft_label_entropy",
]
