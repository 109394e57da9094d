"""The rows of the objectives and methods that the founding papers start from and compare with."""

from __future__ import annotations

from congruence import losses
from congruence.methods.adv import Adversarial
from congruence.methods.arcface import ArcFace
from congruence.methods.dml import MutualLearning
from congruence.methods.method import Needs
from congruence.methods.mlld import MultiLevelLogits
from congruence.methods.rows import Row

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
        key="mlld",
        summary="Predictions of samples, between samples and between classes, at several temperatures and two views.",
        reference="Jin, Wang and Lin 2023, Multi-Level Logit Distillation",
        part=MultiLevelLogits,
        function=MultiLevelLogits,
        needs=MultiLevelLogits.needs,
        weight={"ce": 0.1, "instance": 0.9, "class": 0.9, "batch": 0.9},
    ),
    Row(
        key="dml",
        summary="Mutual learning: two students or more and no teacher, each drawn to the others' predictions.",
        reference="Zhang et al. 2018, Deep Mutual Learning",
        part=MutualLearning,
        function=losses.mutual_learning_loss,
        needs=MutualLearning.needs,
    ),
    Row(
        key="adv",
        summary="Features that a discriminator, trained beside the student, cannot tell from the teacher's.",
        reference="Peng et al. 2019, Correlation Congruence for Knowledge Distillation, sec. 4.1",
        part=Adversarial,
        function=Adversarial,
        needs=Adversarial.needs,
        weight={"tell": 1.0, "deceive": 1.0},
    ),
    Row(
        key="dist",
        summary="The teacher's order of classes for each sample, and of samples for each class, by correlation.",
        reference="Huang et al. 2022, Knowledge Distillation from a Stronger Teacher",
        part=losses.DistLoss,
        function=losses.dist_loss,
        needs=Needs(roles=("logits",)),
        weight=2.0,
    ),
    Row(
        key="dkd",
        summary="Soft labels in two parts, weighed apart: the label's class, and the others among themselves.",
        reference="Zhao et al. 2022, Decoupled Knowledge Distillation, eq. 7",
        part=losses.DecoupledKdLoss,
        function=losses.decoupled_kd_loss,
        needs=Needs(roles=("logits",), labels=True, scope="labelled"),
    ),
)
