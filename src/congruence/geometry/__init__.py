"""Floor 1: mathematics that several methods share."""

from congruence.geometry.angles import angle_difference
from congruence.geometry.clustering import kmeans
from congruence.geometry.dissimilarity import (
    cosine,
    dissimilarity_blocks,
    euclidean,
    pairwise_dissimilarity,
)
from congruence.geometry.gaussian import bures, gaussian_wasserstein
from congruence.geometry.kernels import bilinear_kernel, mmd_kernel, rbf_kernel, resolve_kernel, taylor_rbf_kernel
from congruence.geometry.maps import pooled_alike
from congruence.geometry.phi_s import phi_s_transform
from congruence.geometry.positions import labels_of_positions, rows_of_positions
from congruence.geometry.softrank import soft_rank
from congruence.geometry.transport import class_transport_plan, transport_cost, transport_plan

__all__ = [
    "angle_difference",
    "bilinear_kernel",
    "bures",
    "class_transport_plan",
    "cosine",
    "dissimilarity_blocks",
    "euclidean",
    "gaussian_wasserstein",
    "kmeans",
    "labels_of_positions",
    "mmd_kernel",
    "pairwise_dissimilarity",
    "phi_s_transform",
    "pooled_alike",
    "rbf_kernel",
    "resolve_kernel",
    "rows_of_positions",
    "soft_rank",
    "taylor_rbf_kernel",
    "transport_cost",
    "transport_plan",
]
