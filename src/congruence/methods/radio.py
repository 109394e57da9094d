"""AM-RADIO: a student learns a teacher's summary of an image and its tokens, through one head for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.geometry.phi_s import phi_s_transform
from congruence.losses.radio import CHECKS as LOSS_CHECKS
from congruence.losses.radio import AgglomerativeLoss
from congruence.methods.method import Method, Needs, Probe, Signals
from congruence.methods.token_pairs import token_pairs

CHECKS: Mapping[str, check.Constraint] = {
    **LOSS_CHECKS,
    "hidden": check.Real(low=1, closed="low", integer=True, optional=True),
    "phi_s": check.Real(low=2, closed="low", integer=True, optional=True),
}
_ROLES = ("features", "tokens")


class Agglomerative(Method):
    """`agglomerative_loss` in two parts: of the summaries, by cosine only, and of the tokens.

    L = summary + tokens, computed on the student's side after a trained head (Linear, layer norm, GELU, Linear). A term
    has one teacher and its own heads: use one term for each of several teachers. The summary is the role "features" (in
    a classification transformer usually the class token; `pool` chooses), the tokens are the role "tokens". Layers are
    named by role, as in `student_layer={"features": "head_drop", "tokens": "norm"}`. If the grids differ in size, the
    larger is averaged to the smaller; padded tokens do not count.
    With `phi_s`, the teacher's features are standardised by `phi_s_transform`. It is fitted once, on the given number
    of first summaries and first tokens of all ranks, and saved in checkpoints; until then features are compared
    unchanged.

    Shape:
        features [B, D] and tokens [B, N, C] of both sides; two losses of shape [].

    Args:
        cosine_weight: see the loss; for the tokens.
        hidden: width inside the heads; None for the larger width of the two sides.
        phi_s: the number of summaries, and of tokens, on which the transform is fitted (a few times their width); None
            for no transform.

    Raises:
        ValueError: for a hyper-parameter out of its range, or more than one layer for a role.

    Example:
        >>> Agglomerative(cosine_weight=0.5).needs.roles
        ('features', 'tokens')

    Reference:
        Ranzinger et al., AM-RADIO: Agglomerative Vision Foundation Model, CVPR 2024, from the definition; PHI-S:
        Distribution Balancing for Label-Free Multi-Teacher Distillation, 2024.

    Deviations:
        The training code is not public: layers and width of the heads are ours. PHI-S is fitted at the start of the
        training, not before it.
    """

    needs = Needs(roles=_ROLES, scope="labelled")

    def __init__(self, *, cosine_weight: float = 0.9, hidden: int | None = None, phi_s: int | None = None) -> None:
        super().__init__()
        check.hyperparameters("Agglomerative", CHECKS, cosine_weight=cosine_weight, hidden=hidden, phi_s=phi_s)
        self.cosine_weight, self.hidden, self.phi_s = cosine_weight, hidden, phi_s
        self.criteria = nn.ModuleDict(
            {"features": AgglomerativeLoss(cosine_weight=1.0), "tokens": AgglomerativeLoss(cosine_weight=cosine_weight)}
        )
        self.heads = nn.ModuleDict()
        self._register()

    def _register(self) -> None:
        # the rows collected, then the transform fitted on them; empty at first
        for role in _ROLES if self.phi_s else ():
            for name in ("rows", "mean", "matrix"):
                self.register_buffer(f"{role}_{name}", torch.empty(0))

    def build(self, probe: Probe) -> None:
        """Make the heads, and try the loss on tensors of the probed shapes."""
        self._register()
        for role in _ROLES:
            pairs = probe.pairs(role)
            if len(pairs) != 1:
                raise ValueError(f"`Agglomerative` reads one layer of {role!r} a side, got {len(pairs)}.")
            widths = probe.width("student", role), probe.width("teacher", role)
            self.heads[role] = _head(widths[0], self.hidden or max(widths), widths[1])
        with torch.no_grad():
            self.loss(self.embed(probe.zeros()))

    def embed(self, signals: Signals) -> Signals:
        """Apply the heads to the student's side."""
        changed = {role: self.heads[role](signals.one("student", role)) for role in _ROLES}
        return signals.replace({("student", "main", role): (made,) for role, made in changed.items()})

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the two parts."""
        (pair,) = token_pairs(signals)
        teacher = self._standardised("features", signals.one("teacher"))
        summary = self.criteria["features"](signals.one("student"), teacher)
        tokens = self.criteria["tokens"](pair.student, self._standardised("tokens", pair.teacher), pair.real)
        return {"summary": summary, "tokens": tokens}

    def _standardised(self, role: str, features: Tensor) -> Tensor:
        if self.phi_s is None or not (matrix := self.get_buffer(f"{role}_matrix")).numel():
            return features
        return (features - self.get_buffer(f"{role}_mean")).to(matrix.dtype) @ matrix.T

    def update(self, signals: Signals) -> None:
        """Collect the teacher's rows until there are enough for the transform."""
        for role in _ROLES if self.phi_s else ():
            if self.get_buffer(f"{role}_matrix").numel():
                continue
            new = signals.one("teacher", role)
            (mask,) = signals.masks.get(("teacher", "main", role), (None,))
            new = new.flatten(0, -2) if mask is None else new[mask]
            rows = self.get_buffer(f"{role}_rows")
            rows = torch.cat([rows.to(new), new])[: self.phi_s] if rows.numel() else new[: self.phi_s]
            if len(rows) == self.phi_s:
                mean, matrix = phi_s_transform(rows)
                setattr(self, f"{role}_mean", mean)
                setattr(self, f"{role}_matrix", matrix)
                rows = rows.new_empty(0)
            setattr(self, f"{role}_rows", rows)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Resize the buffers to their lengths in the state."""
        for name, buffer in list(self.named_buffers(recurse=False)):
            stored = state_dict.get(f"{prefix}{name}")
            if stored is not None:
                setattr(self, name, buffer.new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _head(in_width: int, hidden: int, out_width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(in_width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, out_width))
