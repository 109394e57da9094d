"""The rows of the objectives and methods that the founding papers start from and compare with."""

from __future__ import annotations

from congruence import losses
from congruence.methods.arcface import ArcFace
from congruence.methods.method import Needs
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
)
