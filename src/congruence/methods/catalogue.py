"""The table of methods: one frozen row each. A package adds rows through the entry-point group `congruence.methods`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import entry_points
from types import MappingProxyType

from congruence import losses
from congruence.core import check
from congruence.methods.arcface import ArcFace
from congruence.methods.intra_class import IntraClass
from congruence.methods.joint_wasserstein import JointWasserstein
from congruence.methods.kda import KernelTransfer
from congruence.methods.method import Needs
from congruence.methods.rows import Row

GROUP = "congruence.methods"


_LOGITS = Needs(roles=("logits",), scope="sample")
_CLASSES = Needs(labels=True)
_KD2M = "Montesuma 2025, KD²M: An Unifying Framework for Feature Knowledge Distillation"

ROWS: tuple[Row, ...] = (
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
        key="cckd",
        summary="Correlation congruence: the kernel between every two samples, as the teacher has it.",
        reference="Peng et al. 2019, Correlation Congruence for Knowledge Distillation, eqs. 6 and 9",
        part=losses.CorrelationCongruenceLoss,
        function=losses.correlation_congruence_loss,
        weight=0.003,
    ),
    Row(
        key="intra_class",
        summary="For a teacher's training: confident samples of one class are told apart, for richer soft labels.",
        reference="Enriching Knowledge Distillation with Intra-Class Contrastive Learning, eqs. 5 to 7",
        part=IntraClass,
        function=losses.intra_class_contrastive_loss,
        needs=IntraClass.needs,
        weight=0.02,
    ),
    Row(
        key="kda",
        summary="Kernel transfer: each sample's similarities to landmarks, class centres that follow the training.",
        reference="Qian, Li and Hu, Efficient Kernel Transfer in Knowledge Distillation, eqs. 3 and 4, Alg. 1",
        part=KernelTransfer,
        function=losses.kernel_transfer_loss,
        needs=KernelTransfer.needs,
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
        key="wasserstein",
        summary="The batch of features moved onto the teacher's at the least cost, whichever sample is which.",
        reference=f"{_KD2M}, eq. 2",
        part=losses.WassersteinLoss,
        function=losses.wasserstein_loss,
        project=True,
    ),
    Row(
        key="class_wasserstein",
        summary="Each class of the batch moved onto the same class of the teacher's at the least cost.",
        reference=f"{_KD2M}, eq. 3",
        part=losses.ClassWassersteinLoss,
        function=losses.class_wasserstein_loss,
        needs=_CLASSES,
        project=True,
        labels_of_each=True,
    ),
    Row(
        key="joint_wasserstein",
        summary="Features and predicted probabilities together moved onto the teacher's at the least cost.",
        reference=f"{_KD2M}, eq. 4",
        part=JointWasserstein,
        function=losses.joint_wasserstein_loss,
        needs=JointWasserstein.needs,
    ),
    Row(
        key="gaussian_wasserstein",
        summary="Mean and covariance of the batch at the teacher's, by the Wasserstein distance of Gaussians.",
        reference=f"{_KD2M}, eq. 5",
        part=losses.GaussianWassersteinLoss,
        function=losses.gaussian_wasserstein_loss,
        project=True,
    ),
    Row(
        key="class_gaussian_wasserstein",
        summary="Mean and deviations of each class at the teacher's, by the Wasserstein distance of Gaussians.",
        reference=f"{_KD2M}, eqs. 3 and 5",
        part=losses.ClassGaussianWassersteinLoss,
        function=losses.class_gaussian_wasserstein_loss,
        needs=_CLASSES,
        project=True,
        labels_of_each=True,
    ),
    Row(
        key="gaussian_kl",
        summary="Mean and covariance of the batch at the teacher's, by the divergence of Gaussians.",
        reference=f"{_KD2M}, eq. 6",
        part=losses.GaussianKlLoss,
        function=losses.gaussian_kl_loss,
        project=True,
    ),
    Row(
        key="mmd",
        summary="The batch's mean in the feature space of a kernel at the teacher's.",
        reference=f"{_KD2M}, sec. 2.3, after Huang and Wang 2017",
        part=losses.MmdLoss,
        function=losses.mmd_loss,
        project=True,
    ),
    Row(
        key="perception_coherence",
        summary="The ranking of all others by dissimilarity, as each sample of the teacher sees it.",
        reference="Feature Representation Transferring to Lightweight Models via Perception Coherence, eqs. 3 and 4",
        part=losses.PerceptionCoherenceLoss,
        function=losses.perception_coherence_loss,
        weight=5.0,
    ),
)


def table(rows: tuple[Row, ...]) -> Mapping[str, Row]:
    """Index rows by key; a key that occurs twice raises."""
    index: dict[str, Row] = {}
    for entry in rows:
        if entry.key in index:
            raise ValueError(f"The catalogue has two rows with the key '{entry.key}'.")
        index[entry.key] = entry
    return MappingProxyType(index)


@functools.cache
def _all() -> Mapping[str, Row]:
    return table(ROWS + tuple(_contributed()))


def _contributed() -> list[Row]:
    rows = []
    for point in entry_points(group=GROUP):
        entry = point.load()
        if not isinstance(entry, Row):
            raise ValueError(
                f"The entry point '{point.name}' of {GROUP} must name a catalogue Row, got {type(entry).__name__}."
            )
        rows.append(entry)
    return rows


def keys() -> tuple[str, ...]:
    """Return the keys of all rows, the library's own first."""
    return tuple(_all())


def row(key: str) -> Row:
    """Return the row with this key; an unknown one lists near matches.

    Example:
        >>> row("ptk")
        Traceback (most recent call last):
        ValueError: Unknown method 'ptk'. Did you mean 'pkt'? `congruence methods` lists them all.
    """
    if key not in _all():
        raise ValueError(f"Unknown method '{key}'.{check.near(key, keys())} `congruence methods` lists them all.")
    return _all()[key]
