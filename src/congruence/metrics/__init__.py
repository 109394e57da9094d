"""Floor 3: metrics of a trained student, streamed where the cost grows with the square of the samples."""

from congruence.metrics.accuracy import accuracy, agreement, expected_calibration_error
from congruence.metrics.alignment import effective_kernel_alignment, gram_alignment
from congruence.metrics.batch_coherence import BatchCoherence, batch_coherence
from congruence.metrics.class_ratio import IntraInterBounds, IntraInterRatio, intra_inter_bounds, intra_inter_ratio
from congruence.metrics.discrepancy import (
    estimate_wasserstein_discrepancy,
    gaussian_kl_discrepancy,
    gaussian_wasserstein_discrepancy,
    mmd_discrepancy,
    sliced_wasserstein_discrepancy,
    wasserstein_discrepancy,
)
from congruence.metrics.identification import identification_rate
from congruence.metrics.kernel import (
    cosine_kernel_transfer_error,
    kernel_transfer_bound,
    kernel_transfer_error,
    landmark_transfer_error,
    nystrom_error,
    smallest_landmark_eigenvalue,
)
from congruence.metrics.multilabel import macro_f1, mean_average_precision
from congruence.metrics.neighbours import knn_accuracy, neighbour_overlap, recall_at_k
from congruence.metrics.perception import (
    estimate_perception_coherence,
    global_perception_coherence,
    perception_coherence,
)
from congruence.metrics.preservation import Preservation, order_preservation, rank_preservation
from congruence.metrics.probe import linear_probe
from congruence.metrics.reid import ReidResult, reid_evaluate
from congruence.metrics.relations import linear_cka, rkd_distance_discrepancy
from congruence.metrics.retrieval import interpolated_precision_at_k, precision_at_k, retrieval_map
from congruence.metrics.risk import RiskGap, feature_distance, risk_gap
from congruence.metrics.rkhs import generalization_bound, norm_reduction, rkhs_norm
from congruence.metrics.segmentation import mean_iou
from congruence.metrics.spread import inter_class_similarity, intra_class_similarity, soft_label_entropy
from congruence.metrics.stability import PerceptionStability, perception_stability
from congruence.metrics.subsets import Estimate, estimate

__all__ = [
    "BatchCoherence",
    "Estimate",
    "IntraInterBounds",
    "IntraInterRatio",
    "PerceptionStability",
    "Preservation",
    "ReidResult",
    "RiskGap",
    "accuracy",
    "agreement",
    "batch_coherence",
    "cosine_kernel_transfer_error",
    "effective_kernel_alignment",
    "estimate",
    "estimate_perception_coherence",
    "estimate_wasserstein_discrepancy",
    "expected_calibration_error",
    "feature_distance",
    "gaussian_kl_discrepancy",
    "gaussian_wasserstein_discrepancy",
    "generalization_bound",
    "global_perception_coherence",
    "gram_alignment",
    "identification_rate",
    "inter_class_similarity",
    "interpolated_precision_at_k",
    "intra_class_similarity",
    "intra_inter_bounds",
    "intra_inter_ratio",
    "kernel_transfer_bound",
    "kernel_transfer_error",
    "knn_accuracy",
    "landmark_transfer_error",
    "linear_cka",
    "linear_probe",
    "macro_f1",
    "mean_average_precision",
    "mean_iou",
    "mmd_discrepancy",
    "neighbour_overlap",
    "norm_reduction",
    "nystrom_error",
    "order_preservation",
    "perception_coherence",
    "perception_stability",
    "precision_at_k",
    "rank_preservation",
    "recall_at_k",
    "reid_evaluate",
    "retrieval_map",
    "risk_gap",
    "rkd_distance_discrepancy",
    "rkhs_norm",
    "sliced_wasserstein_discrepancy",
    "smallest_landmark_eigenvalue",
    "soft_label_entropy",
    "wasserstein_discrepancy",
]
