"""The rows of the objectives and methods that the founding papers start from and compare with."""

from __future__ import annotations

from congruence import losses
from congruence.methods.adv import Adversarial
from congruence.methods.arcface import ArcFace
from congruence.methods.crd import ContrastiveRepresentation
from congruence.methods.dml import MutualLearning
from congruence.methods.fitnet import FitNet
from congruence.methods.hkd import HeterogeneousKd
from congruence.methods.method import Needs
from congruence.methods.mkt import MetricTransfer
from congruence.methods.mlld import MultiLevelLogits
from congruence.methods.ofd import Overhaul
from congruence.methods.reviewkd import ReviewKD
from congruence.methods.rkd import RelationalDistillation
from congruence.methods.rows import Row
from congruence.methods.vid import Variational

_LOGITS = Needs(roles=("logits",), scope="sample", dense=True)

COMPARED: tuple[Row, ...] = (
    Row(
        key="ce",
        summary="Cross-entropy with the labels, without a teacher: the baseline of every table.",
        reference="cross-entropy",
        part=losses.CrossEntropyLoss,
        function=losses.cross_entropy_loss,
        needs=Needs(roles=("logits",), teacher=False, labels=True, scope="labelled", dense=True),
    ),
    Row(
        key="arcface",
        summary="Cross-entropy with a margin between the classes' angles: the base objective for faces.",
        reference="Deng et al. 2019, ArcFace: Additive Angular Margin Loss for Deep Face Recognition, eq. 3",
        year=2019,
        link="https://arxiv.org/abs/1801.07698",
        part=ArcFace,
        function=ArcFace,
        needs=ArcFace.needs,
    ),
    Row(
        key="kd",
        summary="The teacher's class probabilities, softened by a temperature.",
        reference="Hinton, Vinyals and Dean 2015, Distilling the Knowledge in a Neural Network",
        year=2015,
        link="https://arxiv.org/abs/1503.02531",
        part=losses.DistillationLoss,
        function=losses.distillation_loss,
        needs=_LOGITS,
        weight=0.9,
    ),
    Row(
        key="mimic",
        summary="The teacher's features themselves, through a trained linear map if widths differ.",
        reference="Peng et al. 2019, Correlation Congruence for Knowledge Distillation, eq. 2",
        year=2019,
        link="https://arxiv.org/abs/1904.01802",
        part=losses.MimicLoss,
        function=losses.mimic_loss,
        needs=Needs(scope="sample"),
        project=True,
    ),
    Row(
        key="pkt",
        summary="Probabilistic knowledge transfer: each sample's distribution over its neighbours.",
        reference="Passalis and Tefas 2018, Learning Deep Representations with Probabilistic Knowledge Transfer, eq. 7",
        year=2018,
        link="https://arxiv.org/abs/1803.10837",
        part=losses.PktLoss,
        function=losses.pkt_loss,
        weight=30000.0,
    ),
    Row(
        key="mlld",
        summary="Predictions for each sample, and their relations between samples and between classes, at several "
        "temperatures.",
        reference="Jin, Wang and Lin 2023, Multi-Level Logit Distillation",
        year=2023,
        link="https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html",
        part=MultiLevelLogits,
        function=MultiLevelLogits,
        needs=MultiLevelLogits.needs,
        weight={"ce": 0.1, "instance": 0.9, "class": 0.9, "batch": 0.9},
    ),
    Row(
        key="dml",
        summary="Mutual learning: two or more students without a teacher, each learning the others' predictions.",
        reference="Zhang et al. 2018, Deep Mutual Learning",
        year=2018,
        link="https://arxiv.org/abs/1706.00384",
        part=MutualLearning,
        function=losses.mutual_learning_loss,
        needs=MutualLearning.needs,
    ),
    Row(
        key="adv",
        summary="Features that a discriminator, trained together with the student, cannot distinguish from the "
        "teacher's.",
        reference="Peng et al. 2019, Correlation Congruence for Knowledge Distillation, sec. 4.1",
        year=2019,
        link="https://arxiv.org/abs/1904.01802",
        part=Adversarial,
        function=Adversarial,
        needs=Adversarial.needs,
        weight={"discriminator": 1.0, "adversarial": 1.0},
        part_aliases={"tell": "discriminator", "deceive": "adversarial"},
        blind=True,
        share=0.1,
    ),
    Row(
        key="dist",
        summary="The teacher's order of classes for each sample, and of samples for each class, by correlation.",
        reference="Huang et al. 2022, Knowledge Distillation from a Stronger Teacher",
        year=2022,
        link="https://arxiv.org/abs/2205.10536",
        part=losses.DistLoss,
        function=losses.dist_loss,
        needs=Needs(roles=("logits",), dense=True),
        weight=2.0,
    ),
    Row(
        key="dkd",
        summary="Soft labels in two separately weighted parts: the label's class, and the other classes among "
        "themselves.",
        reference="Zhao et al. 2022, Decoupled Knowledge Distillation, eq. 7",
        year=2022,
        link="https://arxiv.org/abs/2203.08679",
        part=losses.DecoupledKdLoss,
        function=losses.decoupled_kd_loss,
        needs=Needs(roles=("logits",), labels=True, scope="labelled"),
    ),
    Row(
        key="fitnet",
        summary="Hints: the values of a teacher's layer, predicted from the student's by a trained regressor.",
        reference="Romero et al. 2015, FitNets: Hints for Thin Deep Nets, eq. 3",
        year=2015,
        link="https://arxiv.org/abs/1412.6550",
        part=FitNet,
        function=FitNet,
        needs=FitNet.needs,
        weight=100.0,
    ),
    Row(
        key="at",
        summary="Attention transfer: where in the image the networks are active.",
        reference="Zagoruyko and Komodakis 2017, Paying More Attention to Attention",
        year=2017,
        link="https://arxiv.org/abs/1612.03928",
        part=losses.AttentionTransferLoss,
        function=losses.attention_transfer_loss,
        needs=Needs(roles=("maps",), scope="sample", stages=2),
        weight=1000.0,
    ),
    Row(
        key="fsp",
        summary="Flow of the solution: how the features change from layer to layer.",
        reference="Yim et al. 2017, A Gift from Knowledge Distillation, eqs. 1 and 2",
        year=2017,
        link="https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html",
        part=losses.FspLoss,
        function=losses.fsp_loss,
        needs=Needs(roles=("maps",), scope="sample", stages=3),
        weight=50.0,
        project=True,
        listed=True,
    ),
    Row(
        key="nst",
        summary="Neuron selectivity transfer: the distribution of the channels' patterns.",
        reference="Huang and Wang 2017, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer",
        year=2017,
        link="https://arxiv.org/abs/1707.01219",
        part=losses.NeuronSelectivityLoss,
        function=losses.neuron_selectivity_loss,
        needs=Needs(roles=("maps",), scope="sample", stages=1),
        weight=50.0,
    ),
    Row(
        key="sp",
        summary="Similarity preserving: which samples of the batch activate a network similarly.",
        reference="Tung and Mori 2019, Similarity-Preserving Knowledge Distillation",
        year=2019,
        link="https://arxiv.org/abs/1907.09682",
        part=losses.SimilarityPreservingLoss,
        function=losses.similarity_preserving_loss,
        needs=Needs(roles=("maps",), stages=1, padded=True),
        weight=3000.0,
    ),
    Row(
        key="rkd",
        summary="Relations of samples: their distances, and the angles of their triples.",
        reference="Park et al. 2019, Relational Knowledge Distillation",
        year=2019,
        link="https://arxiv.org/abs/1904.05068",
        part=RelationalDistillation,
        function=RelationalDistillation,
        needs=RelationalDistillation.needs,
        weight={"distance": 25.0, "angle": 50.0},
    ),
    Row(
        key="mkt",
        summary="Metric transfer: the teacher's embeddings, and its distances between samples.",
        reference="Yu et al. 2019, Learning Metrics from Teachers: Compact Networks for Image Embedding",
        year=2019,
        link="https://arxiv.org/abs/1904.03624",
        part=MetricTransfer,
        function=MetricTransfer,
        needs=MetricTransfer.needs,
        weight={"absolute": 1.0, "relative": 1.0},
    ),
    Row(
        key="hkd",
        summary="Neighbourhood distributions of several layers by two kernels; early layers count mostly in early "
        "epochs.",
        reference=(
            "Passalis, Tzelepi and Tefas 2020, Heterogeneous Knowledge Distillation Using Information Flow Modeling"
        ),
        year=2020,
        link="https://arxiv.org/abs/2005.00727",
        part=HeterogeneousKd,
        function=losses.heterogeneous_kd_loss,
        needs=HeterogeneousKd.needs,
        older={"positions": {None: "averaged"}},
    ),
    Row(
        key="vid",
        summary="The likelihood of the teacher's maps under Gaussians whose means are regressed from the student's "
        "maps.",
        reference="Ahn et al. 2019, Variational Information Distillation for Knowledge Transfer, eqs. 5 and 6",
        year=2019,
        link="https://arxiv.org/abs/1904.05835",
        part=Variational,
        function=losses.variational_loss,
        needs=Variational.needs,
    ),
    Row(
        key="crd",
        summary="Each sample's two embeddings contrasted with embeddings of other classes from memory banks.",
        reference="Tian, Krishnan and Isola 2020, Contrastive Representation Distillation",
        year=2020,
        link="https://arxiv.org/abs/1910.10699",
        part=ContrastiveRepresentation,
        function=losses.contrastive_representation_loss,
        needs=ContrastiveRepresentation.needs,
        weight=0.8,
    ),
    Row(
        key="ofd",
        summary="The teacher's maps before their ReLUs, clipped below at a margin from its batch norms.",
        reference="Heo et al. 2019, A Comprehensive Overhaul of Feature Distillation, eqs. 2 and 3",
        year=2019,
        link="https://arxiv.org/abs/1904.01866",
        part=Overhaul,
        function=losses.overhaul_loss,
        needs=Overhaul.needs,
        weight=0.001,
    ),
    Row(
        key="reviewkd",
        summary="The student's layers, fused from deep to shallow, matched to the teacher's on several grids.",
        reference="Chen et al. 2021, Distilling Knowledge via Knowledge Review",
        year=2021,
        link="https://arxiv.org/abs/2104.09044",
        part=ReviewKD,
        function=losses.hierarchical_context_loss,
        needs=ReviewKD.needs,
    ),
)
