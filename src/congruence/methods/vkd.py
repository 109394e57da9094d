"""VkD: the student's embedding through a trained orthogonal map."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from congruence.losses.vkd import OrthogonalFeatureLoss
from congruence.methods.method import Needs
from congruence.methods.projected import Projected


class OrthogonalProjection(Projected):
    """`orthogonal_feature_loss` of the teacher's embedding and an orthogonal map of the student's.

    L = Σ_layers mean smooth_l1(W s − LN(t)) with trained W [D_t, D_s], no bias, WᵀW = I (W Wᵀ = I if the student is
    wider).

    Shape:
        features [B, D] of any widths; a loss of shape [].

    Args:
        eps: ε > 0, of the teacher's layer norm.

    Raises:
        ValueError: for a hyper-parameter out of its range.

    Example:
        >>> OrthogonalProjection().needs.scope
        'sample'

    Reference:
        Miles et al., VkD: Improving Knowledge Distillation using Orthogonal Projections, CVPR 2024, and the authors'
        code.

    Deviations:
        W is the orthonormal factor of an ordinary weight, which is saved directly and exempt from weight decay. The
        code uses `torch.nn.utils.parametrizations.orthogonal`: its weight is 0 after a step with any decay, and
        safetensors cannot save it.
    """

    needs = Needs(scope="sample")

    def __init__(self, *, eps: float = 1e-5) -> None:
        super().__init__(OrthogonalFeatureLoss(eps=eps))

    def projector(self, student: torch.Size, teacher: torch.Size) -> nn.Module:
        """Return an orthogonal map."""
        return OrthogonalLinear(student[1], teacher[1])

    def without_decay(self) -> Iterable[nn.Parameter]:
        """Yield the weights whose length has no effect: the shorter they are, the further a step turns them."""
        return self.projectors.parameters()


class OrthogonalLinear(nn.Module):
    """A linear map without bias whose matrix has orthonormal columns (or rows, if it has fewer rows).

    y = W x with W = Q of the weight V = Q R (W = Qᵀ of Vᵀ = Q R where V is wide), the diagonal of R positive. Where V
    is orthonormal, as at first, W is V itself.

    Shape:
        [B, in_width] → [B, out_width].

    Args:
        in_width: width of the input rows.
        out_width: width of the output rows.

    Example:
        >>> part = OrthogonalLinear(3, 5)
        >>> rows = torch.randn(4, 3)
        >>> torch.allclose(part(rows).norm(dim=1), rows.norm(dim=1), rtol=1e-4)
        True
    """

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_width, in_width))
        nn.init.orthogonal_(self.weight)

    def matrix(self) -> Tensor:
        """Return W [out_width, in_width]."""
        wide = self.weight.shape[0] < self.weight.shape[1]
        tall = self.weight.mT if wide else self.weight
        q, r = torch.linalg.qr(tall)
        q = q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype)
        return q.mT if wide else q

    def forward(self, rows: Tensor) -> Tensor:
        """Apply the map to rows."""
        return F.linear(rows, self.matrix())
