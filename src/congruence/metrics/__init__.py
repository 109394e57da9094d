"""Floor 3: what is measured on a trained student, streamed where it grows with the square of the samples."""

from congruence.metrics.accuracy import accuracy
from congruence.metrics.perception import (
    estimate_perception_coherence,
    global_perception_coherence,
    perception_coherence,
)
from congruence.metrics.retrieval import precision_at_k, retrieval_map

__all__ = [
    "accuracy",
    "estimate_perception_coherence",
    "global_perception_coherence",
    "perception_coherence",
    "precision_at_k",
    "retrieval_map",
]
