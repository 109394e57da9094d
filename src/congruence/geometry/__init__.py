"""Floor 1: mathematics that several methods share."""

from congruence.geometry.clustering import kmeans
from congruence.geometry.dissimilarity import (
    cosine,
    dissimilarity_blocks,
    euclidean,
    pairwise_dissimilarity,
)
from congruence.geometry.kernels import bilinear_kernel, mmd_kernel, rbf_kernel, resolve_kernel, taylor_rbf_kernel
from congruence.geometry.softrank import soft_rank

__all__ = [
    "bilinear_kernel",
    "cosine",
    "dissimilarity_blocks",
    "euclidean",
    "kmeans",
    "mmd_kernel",
    "pairwise_dissimilarity",
    "rbf_kernel",
    "resolve_kernel",
    "soft_rank",
    "taylor_rbf_kernel",
]
