"""The losses of Jasper and Stella: embeddings, their similarities, and the order of the similarities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.losses.cckd import correlation_congruence_loss
from congruence.losses.cosine import cosine_loss
from congruence.losses.similarity import CHECKS as LOSS_CHECKS
from congruence.losses.similarity import relative_similarity_loss
from congruence.methods.method import Method, Needs, Probe, Signals
from congruence.models.projectors import width_projector


class SimilarityDistillation(Method):
    """`cosine_loss`, the congruence of cosines, and `relative_similarity_loss`, in three parts.

    "cosine" uses the full width. "similarity", which is `correlation_congruence_loss(kernel="bilinear")`, and
    "relative" are means over the widths to which the student is truncated; the teacher always has its full width. If
    widths differ, the student goes through a trained linear map.

    Shape:
        features [B, D] of both sides; three losses of shape []. O(B²) memory.

    Args:
        margin: see `relative_similarity_loss`.
        widths: for each width, only that many first entries of the student's (projected) embedding are used; None for
            the full width alone.

    Raises:
        ValueError: for a hyper-parameter out of its range, or a width beyond the embedding's.

    Example:
        >>> SimilarityDistillation(widths=(64, 128)).widths
        (64, 128)

    Reference:
        Zhang et al., Jasper and Stella, arXiv 2412.19048, and the authors' code: weights 10, 200 and 20.

    Deviations:
        None: labels are not used, as in the original.
    """

    needs = Needs()

    def __init__(self, *, margin: float = 0.015, widths: Sequence[int] | None = None) -> None:
        super().__init__()
        check.hyperparameters("SimilarityDistillation", {"margin": LOSS_CHECKS["margin"]}, margin=margin)
        listed = isinstance(widths, list | tuple) and len(widths) > 0
        if widths is not None and not (listed and all(check.COUNT.accepts(width) for width in widths)):
            check.fail("SimilarityDistillation", "widths", "a list of whole numbers >= 1, or None", repr(widths))
        self.margin, self.widths = margin, None if widths is None else tuple(widths)
        self.projector: nn.Module = nn.Identity()

    def build(self, probe: Probe) -> None:
        """Make the linear map, and check that no width exceeds its output."""
        ((student, teacher),) = probe.pairs()
        self.projector = width_projector(student[1], teacher[1])
        if self.widths is not None and max(self.widths) > teacher[1]:
            got = f"{max(self.widths)} of {teacher[1]}"
            check.fail("SimilarityDistillation", "widths", "numbers up to the teacher's width", got)

    def embed(self, signals: Signals) -> Signals:
        """Project the student's rows."""
        return signals.replace({("student", "main", "features"): (self.projector(signals.one("student")),)})

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the three parts."""
        student, teacher = signals.one("student"), signals.one("teacher")
        cut = [student[:, :width] for width in self.widths or (student.shape[1],)]
        similarity = [correlation_congruence_loss(rows, teacher, kernel="bilinear") for rows in cut]
        relative = [relative_similarity_loss(rows, teacher, margin=self.margin) for rows in cut]
        return {
            "cosine": cosine_loss(student, teacher),
            "similarity": torch.stack(similarity).mean(),
            "relative": torch.stack(relative).mean(),
        }
