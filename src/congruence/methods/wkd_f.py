"""WKD of feature maps: the Gaussian of each channel, after a trained projection to the teacher's channels."""

from __future__ import annotations

import torch
from torch import nn

from congruence.losses.wkd import GaussianFeatureLoss
from congruence.methods.method import Needs
from congruence.methods.projected import Projected, normed_convolution


class GaussianFeatures(Projected):
    """`gaussian_feature_loss` of the teacher's map and the student's, projected to the teacher's channels.

    L = Σ_layers (1/(g² B)) Σ [w (m_s − m_t)² + (d_s − d_t)²] over samples, cells and channels, m and d the mean and the
    deviation of a channel in a cell of ReLU(BN(conv1×1(s))) and of t. The batch norm uses the statistics of the whole
    batch. The default layer is the last map of each model.

    Shape:
        maps [B, C, H, W] of any widths, the larger one average-pooled; a loss of shape [].

    Args:
        grid: g, cells along a side.
        mean_weight: w >= 0.
        eps: ε > 0, beside the variance.

    Raises:
        ValueError: for a hyper-parameter out of its range, or layers that are no maps, when the term is built.

    Example:
        >>> GaussianFeatures(grid=4, mean_weight=3.0).needs.roles
        ('maps',)

    Reference:
        Lv et al., Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation, NeurIPS 2024, and
        the authors' code: (g, w) and the weight are (1, 4) and 0.08 or (4, 3) and 0.3 on CIFAR-100, (4, 2) and 0.02 on
        ImageNet. Their weight falls as half a cosine, on CIFAR-100 from the 150th of 240 epochs on.

    Deviations:
        None if the term has `cosine_from`; by default its weight is constant.
    """

    needs = Needs(roles=("maps",), stages=1)

    def __init__(self, *, grid: int = 1, mean_weight: float = 4.0, eps: float = 1e-5) -> None:
        super().__init__(GaussianFeatureLoss(grid=grid, mean_weight=mean_weight, eps=eps))

    def projector(self, student: torch.Size, teacher: torch.Size) -> nn.Module:
        """Return a convolution 1×1 with batch norm and ReLU."""
        return normed_convolution("GaussianFeatures", student, teacher).append(nn.ReLU())
