"""The rows of the objectives and methods that the founding papers start from and compare with."""

from __future__ import annotations

from congruence import losses
from congruence.methods.arcface import ArcFace
from congruence.methods.crd import ContrastiveRepresentation
from congruence.methods.hkd import HeterogeneousKd
from congruence.methods.method import Needs
from congruence.methods.ofd import Overhaul
from congruence.methods.reviewkd import ReviewKD
from congruence.methods.rows import Row
from congruence.methods.vid import Variational

_LOGITS = Needs(roles=("logits",), scope="sample")

COMPARED: tuple[Row, ...] = (
    Row(
        key="ce",
        summary="Cross-entropy with the labels: the student alone, the reference row of every table.",
        reference="cross-entropy",
        part=losses.CrossEntropyLoss,
        function=losses.cross_entropy_loss,
        needs=Needs(roles=("logits",), teacher=False, labels=True, scope="labelled"),
    ),
    Row(
        key="arcface",
        summary="Cross-entropy with a margin between the classes' angles: the base objective for faces.",
        reference="Deng et al. 2019, ArcFace: Additive Angular Margin Loss for Deep Face Recognition, eq. 3",
        part=ArcFace,
        function=ArcFace,
        needs=ArcFace.needs,
    ),
    Row(
        key="kd",
        summary="Softened class probabilities of the teacher.",
        reference="Hinton, Vinyals and Dean 2015, Distilling the Knowledge in a Neural Network",
        part=losses.DistillationLoss,
        function=losses.distillation_loss,
        needs=_LOGITS,
        weight=0.9,
    ),
    Row(
        key="mimic",
        summary="The teacher's features themselves; a trained linear map where widths differ.",
        reference="Peng et al. 2019, Correlation Congruence for Knowledge Distillation, eq. 2",
        part=losses.MimicLoss,
        function=losses.mimic_loss,
        needs=Needs(scope="sample"),
        project=True,
    ),
    Row(
        key="pkt",
        summary="Probabilistic knowledge transfer: each sample's distribution over its neighbours.",
        reference="Passalis and Tefas 2018, Learning Deep Representations with Probabilistic Knowledge Transfer, eq. 7",
        part=losses.PktLoss,
        function=losses.pkt_loss,
        weight=30000.0,
    ),
    Row(
        key="hkd",
        summary="Neighbourhood distributions of several layers by two kernels, the early layers in the early epochs.",
        reference=(
            "Passalis, Tzelepi and Tefas 2020, Heterogeneous Knowledge Distillation Using Information Flow Modeling"
        ),
        part=HeterogeneousKd,
        function=losses.heterogeneous_kd_loss,
        needs=HeterogeneousKd.needs,
    ),
    Row(
        key="vid",
        summary="The likelihood of the teacher's maps under Gaussians around what a regressor makes of the student's.",
        reference="Ahn et al. 2019, Variational Information Distillation for Knowledge Transfer, eqs. 5 and 6",
        part=Variational,
        function=losses.variational_loss,
        needs=Variational.needs,
    ),
    Row(
        key="crd",
        summary="Each sample's two embeddings told from those of other classes, kept in banks.",
        reference="Tian, Krishnan and Isola 2020, Contrastive Representation Distillation",
        part=ContrastiveRepresentation,
        function=losses.contrastive_representation_loss,
        needs=ContrastiveRepresentation.needs,
        weight=0.8,
    ),
    Row(
        key="ofd",
        summary="The teacher's maps before their ReLUs, down to a margin from its batch norms.",
        reference="Heo et al. 2019, A Comprehensive Overhaul of Feature Distillation, eqs. 2 and 3",
        part=Overhaul,
        function=losses.overhaul_loss,
        needs=Overhaul.needs,
        weight=0.001,
    ),
    Row(
        key="reviewkd",
        summary="The student's levels, fused from deep to shallow, at the teacher's on several grids.",
        reference="Chen et al. 2021, Distilling Knowledge via Knowledge Review",
        part=ReviewKD,
        function=losses.hierarchical_context_loss,
        needs=ReviewKD.needs,
    ),
)
