"""The rows of methods since 2021 that compare logits, maps or embeddings."""

from __future__ import annotations

from congruence import losses
from congruence.methods.catkd import ClassAttention
from congruence.methods.ickd import InterChannelCorrelation
from congruence.methods.method import Needs
from congruence.methods.norm import NToOne
from congruence.methods.pefd import ProjectorEnsemble
from congruence.methods.rcka import RelationBasedCka
from congruence.methods.rows import Row
from congruence.methods.sdd import ScaleDecoupled
from congruence.methods.simkd import ReusedClassifierHint
from congruence.methods.srd import SimpleRecipe
from congruence.methods.vkd import OrthogonalProjection
from congruence.methods.wkd_f import GaussianFeatures
from congruence.methods.wkd_l import WassersteinLogits

_LOGITS = Needs(roles=("logits",), scope="sample", dense=True)
# Means over the labelled samples, of which ranks may hold different numbers.
_LABELLED = Needs(roles=("logits",), labels=True, scope="labelled")

RECENT: tuple[Row, ...] = (
    Row(
        key="lskd",
        summary="Softened class probabilities of logits that are first standardised for each sample.",
        reference=(
            "Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024, "
            "https://github.com/sunshangquan/logit-standardization-KD"
        ),
        year=2024,
        link="https://arxiv.org/abs/2403.01427",
        part=losses.StandardizedDistillationLoss,
        function=losses.standardized_distillation_loss,
        needs=_LOGITS,
        weight=9.0,
    ),
    Row(
        key="ttm",
        summary="A power of the teacher's probabilities, matched by the student's probabilities without a temperature.",
        reference=(
            "Zheng and Yang, Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024, "
            "https://github.com/zkxufo/TTM"
        ),
        year=2024,
        link="https://arxiv.org/abs/2402.11148",
        part=losses.TransformedTeacherLoss,
        function=losses.transformed_teacher_loss,
        needs=_LOGITS,
        weight=45.0,
    ),
    Row(
        key="bce",
        summary="Binary cross-entropy with independent labels, any number of which can be true for a sample.",
        reference="binary cross-entropy",
        part=losses.BinaryCrossEntropyLoss,
        function=losses.binary_cross_entropy_loss,
        needs=Needs(roles=("logits",), teacher=False, labels=True, scope="labelled", dense=True, multilabel=True),
    ),
    Row(
        key="sigmoid_kd",
        summary="The teacher's probability of each of several independent labels.",
        reference="Yang et al., Multi-Label Knowledge Distillation, ICCV 2023, the part on logits",
        year=2023,
        link="https://arxiv.org/abs/2308.06453",
        part=losses.BinaryDistillationLoss,
        function=losses.binary_distillation_loss,
        needs=Needs(roles=("logits",), scope="sample", dense=True, multilabel=True),
    ),
    Row(
        key="nkd",
        summary="Soft labels in two parts: the label's class, and the other classes, normalised among themselves.",
        reference=(
            "Yang et al., From Knowledge Distillation to Self-Knowledge Distillation, ICCV 2023, "
            "https://github.com/yzd-v/cls_KD"
        ),
        year=2023,
        link="https://arxiv.org/abs/2303.13005",
        part=losses.NormalizedKdLoss,
        function=losses.normalized_kd_loss,
        needs=_LABELLED,
    ),
    Row(
        key="rld",
        summary="The teacher's confidence in the label, and its distribution over the classes that it ranks below "
        "the label.",
        reference=(
            "Sun et al., Knowledge Distillation with Refined Logits, ICCV 2025, arXiv 2408.07703, "
            "https://github.com/zju-SWJ/RLD"
        ),
        year=2025,
        link="https://arxiv.org/abs/2408.07703",
        part=losses.RefinedLogitLoss,
        function=losses.refined_logit_loss,
        needs=_LABELLED,
    ),
    Row(
        key="abkd",
        summary="Class probabilities by the α-β divergence, between the forward and the reverse KL.",
        reference=(
            "Wang et al., ABKD: Knowledge Distillation via α-β-Divergence, ICML 2025, https://github.com/ghwang-s/abkd"
        ),
        year=2025,
        link="https://arxiv.org/abs/2505.04560",
        part=losses.AlphaBetaLoss,
        function=losses.alpha_beta_loss,
        needs=_LOGITS,
    ),
    Row(
        key="dist_plus",
        summary="The feature part of DIST+, to use with `dist`: correlations over channels, and over the samples of "
        "a batch.",
        reference=(
            "Huang et al., the extension of Knowledge Distillation from a Stronger Teacher, TPAMI 2025, "
            "https://github.com/hunto/DIST_KD"
        ),
        year=2025,
        part=losses.DistFeatureLoss,
        function=losses.dist_feature_loss,
        needs=Needs(roles=("maps",), stages=1),
        project=True,
    ),
    Row(
        key="cka",
        summary="The pattern of similarities within a batch, by centred kernel alignment.",
        reference="Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019",
        year=2019,
        link="https://arxiv.org/abs/1905.00414",
        part=losses.LinearCkaLoss,
        function=losses.linear_cka_loss,
    ),
    Row(
        key="rcka",
        summary="The alignment of the logits' patterns, between samples and between classes.",
        reference=(
            "Zhou et al., Rethinking Centered Kernel Alignment in Knowledge Distillation, IJCAI 2024, "
            "https://github.com/Klayand/PCKA"
        ),
        year=2024,
        link="https://arxiv.org/abs/2401.11824",
        part=RelationBasedCka,
        function=RelationBasedCka,
        needs=RelationBasedCka.needs,
        weight={"samples": 15.0, "classes": 15.0},
    ),
    Row(
        key="ickd",
        summary="The correlations between the channels of a map.",
        reference=(
            "Liu et al., Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation, ICCV "
            "2021, https://github.com/ADLab-AutoDrive/ICKD"
        ),
        year=2021,
        link="https://arxiv.org/abs/2202.03680",
        part=InterChannelCorrelation,
        function=losses.inter_channel_correlation_loss,
        needs=InterChannelCorrelation.needs,
        weight=2.5,
    ),
    Row(
        key="norm",
        summary="The teacher's map, matched by each of several groups of the student's widened channels.",
        reference=(
            "Liu et al., NORM: Knowledge Distillation via N-to-One Representation Matching, ICLR 2023, "
            "https://github.com/OSVAI/NORM"
        ),
        year=2023,
        link="https://arxiv.org/abs/2305.13803",
        part=NToOne,
        function=losses.n_to_one_loss,
        needs=NToOne.needs,
    ),
    Row(
        key="wkd_f",
        summary="Each channel's Gaussian over a map, by Wasserstein's distance.",
        reference=(
            "Lv et al., Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation, NeurIPS "
            "2024, https://github.com/JiamingLv/WKD"
        ),
        year=2024,
        link="https://arxiv.org/abs/2412.08139",
        part=GaussianFeatures,
        function=GaussianFeatures,
        needs=GaussianFeatures.needs,
        weight=0.08,
    ),
    Row(
        key="wkd_l",
        summary="Class probabilities, by the transport cost between classes, which is lower for similar classes.",
        reference=(
            "Lv et al., Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation, NeurIPS "
            "2024, https://github.com/JiamingLv/WKD"
        ),
        year=2024,
        link="https://arxiv.org/abs/2412.08139",
        part=WassersteinLogits,
        function=WassersteinLogits,
        needs=WassersteinLogits.needs,
    ),
    Row(
        key="srd",
        summary="Batch-normalised embeddings, by the logarithm of a high power of their distance.",
        reference=(
            "Miles and Mikolajczyk, Understanding the Role of the Projector in Knowledge Distillation, AAAI 2024, "
            "https://github.com/roymiles/Simple-Recipe-Distillation"
        ),
        year=2024,
        link="https://arxiv.org/abs/2303.11098",
        part=SimpleRecipe,
        function=losses.log_power_loss,
        needs=SimpleRecipe.needs,
        weight=2.0,
    ),
    Row(
        key="vkd",
        summary="The teacher's normalised embedding, from the student's through a trained orthogonal map.",
        reference=(
            "Miles et al., VkD: Improving Knowledge Distillation using Orthogonal Projections, CVPR 2024, "
            "https://github.com/roymiles/vkd"
        ),
        year=2024,
        link="https://arxiv.org/abs/2403.06213",
        part=OrthogonalProjection,
        function=losses.orthogonal_feature_loss,
        needs=OrthogonalProjection.needs,
    ),
    Row(
        key="pefd",
        summary="The direction of the teacher's embedding, from the mean of several trained maps.",
        reference=(
            "Chen et al., Improved Feature Distillation via Projector Ensemble, NeurIPS 2022, "
            "https://github.com/chenyd7/PEFD"
        ),
        year=2022,
        link="https://arxiv.org/abs/2210.15274",
        part=ProjectorEnsemble,
        function=ProjectorEnsemble,
        needs=ProjectorEnsemble.needs,
        weight=25.0,
    ),
    Row(
        key="catkd",
        summary="Where in the image each network sees each class.",
        reference=(
            "Guo et al., Class Attention Transfer Based Knowledge Distillation, CVPR 2023, "
            "https://github.com/GzyAftermath/CAT-KD"
        ),
        year=2023,
        link="https://arxiv.org/abs/2304.12777",
        part=ClassAttention,
        function=losses.class_attention_loss,
        needs=ClassAttention.needs,
        weight=15.0,
    ),
    Row(
        key="sdd",
        summary="Soft labels of an image's regions, weighting those that disagree with the whole image more.",
        reference=("Wei et al., Scale Decoupled Distillation, CVPR 2024, https://github.com/shicaiwei123/SDD-CVPR2024"),
        year=2024,
        link="https://arxiv.org/abs/2403.13512",
        part=ScaleDecoupled,
        function=losses.scale_decoupled_loss,
        needs=ScaleDecoupled.needs,
    ),
    Row(
        key="simkd",
        summary="The teacher's last map, which the student predicts from by the teacher's own classifier.",
        reference=(
            "Chen et al., Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022, "
            "https://github.com/DefangChen/SimKD"
        ),
        year=2022,
        link="https://arxiv.org/abs/2203.14001",
        part=ReusedClassifierHint,
        function=ReusedClassifierHint,
        needs=ReusedClassifierHint.needs,
    ),
)
