"""The rows of the five founding papers."""

from __future__ import annotations

from congruence import losses
from congruence.methods.inter_class import InterClass
from congruence.methods.intra_class import IntraClass
from congruence.methods.joint_wasserstein import JointWasserstein
from congruence.methods.kda import KernelTransfer
from congruence.methods.method import Needs
from congruence.methods.rows import Row

_CLASSES = Needs(labels=True)
_KD2M = "Montesuma 2025, KD²M: An Unifying Framework for Feature Knowledge Distillation"
_KD2M_LINK = "https://arxiv.org/abs/2504.01757"

FOUNDING: tuple[Row, ...] = (
    Row(
        key="cckd",
        summary="Correlation congruence: the teacher's kernel values between all pairs of samples.",
        reference="Peng et al. 2019, Correlation Congruence for Knowledge Distillation, eqs. 6 and 9",
        year=2019,
        link="https://arxiv.org/abs/1904.01802",
        part=losses.CorrelationCongruenceLoss,
        function=losses.correlation_congruence_loss,
        weight=0.003,
    ),
    Row(
        key="intra_class",
        summary="For training a teacher: separates confident samples of one class, for richer soft labels.",
        reference=(
            "Yuan et al. 2025, Enriching Knowledge Distillation with Intra-Class Contrastive Learning, eqs. 5 to 7"
        ),
        year=2025,
        link="https://arxiv.org/abs/2509.22053",
        part=IntraClass,
        function=losses.intra_class_contrastive_loss,
        needs=IntraClass.needs,
        weight=0.02,
        older={"reduction": {None: "gated_mean"}},
    ),
    Row(
        key="inter_class",
        summary="For training a teacher: keeps the samples of other classes away, as the intra-class theory has it.",
        reference=(
            "Yuan et al. 2025, Enriching Knowledge Distillation with Intra-Class Contrastive Learning, eqs. 8 and 9"
        ),
        year=2025,
        link="https://arxiv.org/abs/2509.22053",
        part=InterClass,
        function=losses.inter_class_contrastive_loss,
        needs=InterClass.needs,
    ),
    Row(
        key="kda",
        summary="Kernel transfer: each sample's similarities to landmarks, class centres that follow the training.",
        reference="Qian, Li and Hu 2020, Efficient Kernel Transfer in Knowledge Distillation, eqs. 3 and 4, Alg. 1",
        year=2020,
        link="https://arxiv.org/abs/2009.14416",
        part=KernelTransfer,
        function=losses.kernel_transfer_loss,
        needs=KernelTransfer.needs,
        older={"normalize": {None: "False"}},
    ),
    Row(
        key="wasserstein",
        summary="Optimal transport of the batch's features to the teacher's, regardless of which sample is which.",
        reference=f"{_KD2M}, eq. 2",
        year=2025,
        link=_KD2M_LINK,
        part=losses.WassersteinLoss,
        function=losses.wasserstein_loss,
        project=True,
        blind=True,
        share=0.1,
    ),
    Row(
        key="class_wasserstein",
        summary="Optimal transport of each class's features to the same class of the teacher's.",
        reference=f"{_KD2M}, eq. 3",
        year=2025,
        link=_KD2M_LINK,
        part=losses.ClassWassersteinLoss,
        function=losses.class_wasserstein_loss,
        needs=_CLASSES,
        project=True,
        labels_of_each=True,
    ),
    Row(
        key="joint_wasserstein",
        summary="Optimal transport of features and predicted probabilities together to the teacher's.",
        reference=f"{_KD2M}, eq. 4",
        year=2025,
        link=_KD2M_LINK,
        part=JointWasserstein,
        function=losses.joint_wasserstein_loss,
        needs=JointWasserstein.needs,
        share=0.1,
        older={"label_cost": {"euclidean": "squared_euclidean"}},
    ),
    Row(
        key="gaussian_wasserstein",
        summary="The batch's mean and covariance, by the Wasserstein distance of Gaussians.",
        reference=f"{_KD2M}, eq. 5",
        year=2025,
        link=_KD2M_LINK,
        part=losses.GaussianWassersteinLoss,
        function=losses.gaussian_wasserstein_loss,
        project=True,
        blind=True,
        share=0.1,
    ),
    Row(
        key="class_gaussian_wasserstein",
        summary="Each class's mean and standard deviations, by the Wasserstein distance of Gaussians.",
        reference=f"{_KD2M}, eqs. 3 and 5",
        year=2025,
        link=_KD2M_LINK,
        part=losses.ClassGaussianWassersteinLoss,
        function=losses.class_gaussian_wasserstein_loss,
        needs=_CLASSES,
        project=True,
        labels_of_each=True,
    ),
    Row(
        key="gaussian_kl",
        summary="The batch's mean and covariance, by the KL divergence of Gaussians.",
        reference=f"{_KD2M}, eq. 6",
        year=2025,
        link=_KD2M_LINK,
        part=losses.GaussianKlLoss,
        function=losses.gaussian_kl_loss,
        project=True,
        blind=True,
        share=0.1,
    ),
    Row(
        key="mmd",
        summary="The batch's mean in the feature space of a kernel (maximum mean discrepancy).",
        reference=f"{_KD2M}, sec. 2.3, after Huang and Wang 2017",
        year=2025,
        link=_KD2M_LINK,
        part=losses.MmdLoss,
        function=losses.mmd_loss,
        project=True,
        blind=True,
        share=0.1,
    ),
    Row(
        key="perception_coherence",
        summary="For each sample, the teacher's ranking of all other samples by dissimilarity.",
        reference=(
            "Nguyen et al. 2025, Feature Representation Transferring to Lightweight Models via Perception Coherence, "
            "eqs. 3 and 4"
        ),
        year=2025,
        link="https://arxiv.org/abs/2505.06595",
        part=losses.PerceptionCoherenceLoss,
        function=losses.perception_coherence_loss,
        weight=5.0,
    ),
)
