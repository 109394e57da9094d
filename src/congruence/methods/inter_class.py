"""`InterClass`: the inter-class contrast over two views of each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from congruence.core import check
from congruence.losses import InterClassContrastiveLoss
from congruence.losses.inter_class import CHECKS
from congruence.methods.method import Method, Needs, Probe, Signals


class InterClass(Method):
    """`inter_class_contrastive_loss` over two views of each sample of the batch.

    It is for a teacher's own stage, as `intra_class`. Beside `intra_class` with a weight of λ it makes the objective of
    the paper's theory, L_inter + λ·L_intra, whose minimum theorem 2 bounds.

    Shape:
        features [B, D] of two views, labels [B]; a loss of shape [].

    Args:
        temperature: see `inter_class_contrastive_loss`.
        normalize: see `inter_class_contrastive_loss`.
        views: the plain view, which gives anchors and negatives, and the augmented one, which gives the positives.

    Raises:
        ValueError: for a hyper-parameter out of its range, or views that are not two different names.

    Example:
        >>> InterClass().needs.views
        ('clean', 'main')

    Reference:
        Yuan et al., Enriching Knowledge Distillation with Intra-Class Contrastive Learning, eqs. 8 and 9.
    """

    needs = Needs(roles=("features",), views=("clean", "main"), teacher=False, labels=True, scope="batch")

    def __init__(
        self, *, temperature: float = 1.0, normalize: bool = True, views: Sequence[str] = ("clean", "main")
    ) -> None:
        super().__init__()
        check.hyperparameters("InterClass", CHECKS, temperature=temperature, normalize=normalize)
        named = not isinstance(views, str) and all(isinstance(view, str) and view.isidentifier() for view in views)
        if not named or len(set(views)) != 2 or len(views) != 2:
            check.fail("InterClass", "views", "the names of two views, the plain one first", repr(views))
        self.needs = replace(self.needs, views=tuple(views))
        self.criterion = InterClassContrastiveLoss(temperature=temperature, normalize=normalize)

    def build(self, probe: Probe) -> None:
        """Check that one layer is read."""
        layers = len(probe.shapes["student", "features"])
        if layers != 1:
            raise ValueError(f"`InterClass` reads one layer of features, got {layers}.")

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the contrast over the batch."""
        plain, augmented = (signals.one("student", view=view) for view in self.needs.views)
        return {"loss": self.criterion(plain, augmented, signals.labels)}
