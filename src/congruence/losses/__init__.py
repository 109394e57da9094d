"""Floor 2: the methods' losses, each a pure function and a thin module of the same name in CamelCase.

Written by docs/update_losses.py from the files beside this one.
"""

from congruence.losses.abkd import AlphaBetaLoss, alpha_beta_loss
from congruence.losses.at import AttentionTransferLoss, attention_transfer_loss
from congruence.losses.bce import BinaryCrossEntropyLoss, binary_cross_entropy_loss
from congruence.losses.catkd import ClassAttentionLoss, class_attention_loss
from congruence.losses.cckd import CorrelationCongruenceLoss, correlation_congruence_loss
from congruence.losses.ce import CrossEntropyLoss, cross_entropy_loss
from congruence.losses.cka import LinearCkaLoss, linear_cka_loss
from congruence.losses.class_gaussian_wasserstein import ClassGaussianWassersteinLoss, class_gaussian_wasserstein_loss
from congruence.losses.class_wasserstein import ClassWassersteinLoss, class_wasserstein_loss
from congruence.losses.cosine import CosineLoss, cosine_loss
from congruence.losses.crd import ContrastiveRepresentationLoss, contrastive_representation_loss
from congruence.losses.dist import DistLoss, dist_loss
from congruence.losses.dist_plus import DistFeatureLoss, dist_feature_loss
from congruence.losses.dkd import DecoupledKdLoss, decoupled_kd_loss
from congruence.losses.dml import MutualLearningLoss, mutual_learning_loss
from congruence.losses.fitnet import HintLoss, hint_loss
from congruence.losses.fsp import FspLoss, fsp_loss
from congruence.losses.gaussian_kl import GaussianKlLoss, gaussian_kl_loss
from congruence.losses.gaussian_wasserstein import GaussianWassersteinLoss, gaussian_wasserstein_loss
from congruence.losses.gram import GramLoss, gram_loss
from congruence.losses.hkd import HeterogeneousKdLoss, heterogeneous_kd_loss
from congruence.losses.ickd import InterChannelCorrelationLoss, inter_channel_correlation_loss
from congruence.losses.inter_class import InterClassContrastiveLoss, inter_class_contrastive_loss
from congruence.losses.intra_class import IntraClassContrastiveLoss, intra_class_contrastive_loss
from congruence.losses.joint_wasserstein import JointWassersteinLoss, joint_wasserstein_loss
from congruence.losses.kd import DistillationLoss, distillation_loss
from congruence.losses.kda import KernelTransferLoss, kernel_transfer_loss
from congruence.losses.lskd import StandardizedDistillationLoss, standardize_logits, standardized_distillation_loss
from congruence.losses.mimic import MimicLoss, mimic_loss
from congruence.losses.minilm import AttentionRelationLoss, attention_relation_loss
from congruence.losses.mkt import (
    MetricTransferAbsoluteLoss,
    MetricTransferRelativeLoss,
    metric_transfer_absolute_loss,
    metric_transfer_relative_loss,
)
from congruence.losses.mlld import (
    BatchCorrelationLoss,
    ClassCorrelationLoss,
    batch_correlation_loss,
    class_correlation_loss,
)
from congruence.losses.mmd import MmdLoss, mmd_loss
from congruence.losses.nkd import NormalizedKdLoss, normalized_kd_loss
from congruence.losses.norm import NToOneLoss, n_to_one_loss
from congruence.losses.nst import NeuronSelectivityLoss, neuron_selectivity_loss
from congruence.losses.ofd import OverhaulLoss, batch_norm_margin, overhaul_loss
from congruence.losses.patch_relation import PatchRelationLoss, patch_relation_loss
from congruence.losses.perception_coherence import PerceptionCoherenceLoss, perception_coherence_loss
from congruence.losses.pkt import PktLoss, pkt_loss
from congruence.losses.queue_relation import QueueRelationLoss, queue_relation_loss
from congruence.losses.radio import AgglomerativeLoss, agglomerative_loss
from congruence.losses.reviewkd import HierarchicalContextLoss, hierarchical_context_loss
from congruence.losses.rkd import RkdAngleLoss, RkdDistanceLoss, rkd_angle_loss, rkd_distance_loss
from congruence.losses.rld import RefinedLogitLoss, refined_logit_loss
from congruence.losses.score_distill import ScoreDistillationLoss, score_distillation_loss
from congruence.losses.sdd import ScaleDecoupledLoss, region_logits, scale_decoupled_loss
from congruence.losses.sigmoid_kd import BinaryDistillationLoss, binary_distillation_loss
from congruence.losses.similarity import RelativeSimilarityLoss, relative_similarity_loss
from congruence.losses.soft_target_cross_entropy import SoftTargetCrossEntropy, soft_target_cross_entropy
from congruence.losses.sp import SimilarityPreservingLoss, similarity_preserving_loss
from congruence.losses.srd import LogPowerLoss, log_power_loss
from congruence.losses.ttm import TransformedTeacherLoss, transformed_teacher_loss
from congruence.losses.vid import VariationalLoss, variational_loss
from congruence.losses.vitkd import MaskedGenerationLoss, TokenMimicLoss, masked_generation_loss, token_mimic_loss
from congruence.losses.vkd import OrthogonalFeatureLoss, orthogonal_feature_loss
from congruence.losses.wasserstein import WassersteinLoss, wasserstein_loss
from congruence.losses.wkd import (
    GaussianFeatureLoss,
    WassersteinLogitLoss,
    class_cost_matrix,
    gaussian_feature_loss,
    wasserstein_logit_loss,
)

__all__ = [
    "AgglomerativeLoss",
    "AlphaBetaLoss",
    "AttentionRelationLoss",
    "AttentionTransferLoss",
    "BatchCorrelationLoss",
    "BinaryCrossEntropyLoss",
    "BinaryDistillationLoss",
    "ClassAttentionLoss",
    "ClassCorrelationLoss",
    "ClassGaussianWassersteinLoss",
    "ClassWassersteinLoss",
    "ContrastiveRepresentationLoss",
    "CorrelationCongruenceLoss",
    "CosineLoss",
    "CrossEntropyLoss",
    "DecoupledKdLoss",
    "DistFeatureLoss",
    "DistLoss",
    "DistillationLoss",
    "FspLoss",
    "GaussianFeatureLoss",
    "GaussianKlLoss",
    "GaussianWassersteinLoss",
    "GramLoss",
    "HeterogeneousKdLoss",
    "HierarchicalContextLoss",
    "HintLoss",
    "InterChannelCorrelationLoss",
    "InterClassContrastiveLoss",
    "IntraClassContrastiveLoss",
    "JointWassersteinLoss",
    "KernelTransferLoss",
    "LinearCkaLoss",
    "LogPowerLoss",
    "MaskedGenerationLoss",
    "MetricTransferAbsoluteLoss",
    "MetricTransferRelativeLoss",
    "MimicLoss",
    "MmdLoss",
    "MutualLearningLoss",
    "NToOneLoss",
    "NeuronSelectivityLoss",
    "NormalizedKdLoss",
    "OrthogonalFeatureLoss",
    "OverhaulLoss",
    "PatchRelationLoss",
    "PerceptionCoherenceLoss",
    "PktLoss",
    "QueueRelationLoss",
    "RefinedLogitLoss",
    "RelativeSimilarityLoss",
    "RkdAngleLoss",
    "RkdDistanceLoss",
    "ScaleDecoupledLoss",
    "ScoreDistillationLoss",
    "SimilarityPreservingLoss",
    "SoftTargetCrossEntropy",
    "StandardizedDistillationLoss",
    "TokenMimicLoss",
    "TransformedTeacherLoss",
    "VariationalLoss",
    "WassersteinLogitLoss",
    "WassersteinLoss",
    "agglomerative_loss",
    "alpha_beta_loss",
    "attention_relation_loss",
    "attention_transfer_loss",
    "batch_correlation_loss",
    "batch_norm_margin",
    "binary_cross_entropy_loss",
    "binary_distillation_loss",
    "class_attention_loss",
    "class_correlation_loss",
    "class_cost_matrix",
    "class_gaussian_wasserstein_loss",
    "class_wasserstein_loss",
    "contrastive_representation_loss",
    "correlation_congruence_loss",
    "cosine_loss",
    "cross_entropy_loss",
    "decoupled_kd_loss",
    "dist_feature_loss",
    "dist_loss",
    "distillation_loss",
    "fsp_loss",
    "gaussian_feature_loss",
    "gaussian_kl_loss",
    "gaussian_wasserstein_loss",
    "gram_loss",
    "heterogeneous_kd_loss",
    "hierarchical_context_loss",
    "hint_loss",
    "inter_channel_correlation_loss",
    "inter_class_contrastive_loss",
    "intra_class_contrastive_loss",
    "joint_wasserstein_loss",
    "kernel_transfer_loss",
    "linear_cka_loss",
    "log_power_loss",
    "masked_generation_loss",
    "metric_transfer_absolute_loss",
    "metric_transfer_relative_loss",
    "mimic_loss",
    "mmd_loss",
    "mutual_learning_loss",
    "n_to_one_loss",
    "neuron_selectivity_loss",
    "normalized_kd_loss",
    "orthogonal_feature_loss",
    "overhaul_loss",
    "patch_relation_loss",
    "perception_coherence_loss",
    "pkt_loss",
    "queue_relation_loss",
    "refined_logit_loss",
    "region_logits",
    "relative_similarity_loss",
    "rkd_angle_loss",
    "rkd_distance_loss",
    "scale_decoupled_loss",
    "score_distillation_loss",
    "similarity_preserving_loss",
    "soft_target_cross_entropy",
    "standardize_logits",
    "standardized_distillation_loss",
    "token_mimic_loss",
    "transformed_teacher_loss",
    "variational_loss",
    "wasserstein_logit_loss",
    "wasserstein_loss",
]
