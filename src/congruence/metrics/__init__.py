"""Floor 3: what is measured on a trained student, streamed where it grows with the square of the samples."""

from congruence.metrics.accuracy import accuracy, agreement, expected_calibration_error
from congruence.metrics.discrepancy import (
    estimate_wasserstein_discrepancy,
    gaussian_kl_discrepancy,
    gaussian_wasserstein_discrepancy,
    mmd_discrepancy,
    wasserstein_discrepancy,
)
from congruence.metrics.identification import identification_rate
from congruence.metrics.kernel import (
    kernel_transfer_bound,
    kernel_transfer_error,
    landmark_transfer_error,
    smallest_landmark_eigenvalue,
)
from congruence.metrics.neighbours import knn_accuracy, neighbour_overlap, recall_at_k
from congruence.metrics.perception import (
    estimate_perception_coherence,
    global_perception_coherence,
    perception_coherence,
)
from congruence.metrics.probe import linear_probe
from congruence.metrics.reid import ReidResult, reid_evaluate
from congruence.metrics.relations import linear_cka, rkd_distance_discrepancy
from congruence.metrics.retrieval import precision_at_k, retrieval_map
from congruence.metrics.spread import inter_class_similarity, intra_class_similarity, soft_label_entropy

__all__ = [
    "ReidResult",
    "accuracy",
    "agreement",
    "estimate_perception_coherence",
    "estimate_wasserstein_discrepancy",
    "expected_calibration_error",
    "gaussian_kl_discrepancy",
    "gaussian_wasserstein_discrepancy",
    "global_perception_coherence",
    "identification_rate",
    "inter_class_similarity",
    "intra_class_similarity",
    "kernel_transfer_bound",
    "kernel_transfer_error",
    "knn_accuracy",
    "landmark_transfer_error",
    "linear_cka",
    "linear_probe",
    "mmd_discrepancy",
    "neighbour_overlap",
    "perception_coherence",
    "precision_at_k",
    "recall_at_k",
    "reid_evaluate",
    "retrieval_map",
    "rkd_distance_discrepancy",
    "smallest_landmark_eigenvalue",
    "soft_label_entropy",
    "wasserstein_discrepancy",
]
