"""ViTKD: tokens of a vision transformer's first layers are copied, those of the last are generated after masking."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.core.ranks import rank
from congruence.core.rng import keyed_uniform
from congruence.losses.vitkd import GENERATION_CHECKS, MaskedGenerationLoss, TokenMimicLoss
from congruence.methods.method import Method, Needs, Probe, Signals
from congruence.methods.token_pairs import TokenPair, token_pairs
from congruence.models.projectors import width_projector
from congruence.models.tokens import Patches, as_maps, as_tokens

CHECKS: Mapping[str, check.Constraint] = {
    "mask_ratio": GENERATION_CHECKS["mask_ratio"],
    "seed": check.Real(integer=True),
}


class ViTKD(Method):
    """`token_mimic_loss` of all layers but the last, and `masked_generation_loss` of the last, as two parts.

    L = α Σ_layers mimic(W_l s_l, t_l) + β generation(G(W s), t) with the weights α = 3e-5 of the part "mimic" and
    β = 3e-6 of the part "generation". If widths differ, each W is a trained linear map. G replaces N − ⌊N (1 − r)⌋
    randomly chosen tokens of each sample by a trained mask token, and applies conv3×3, ReLU and conv3×3 on the image's
    grid. Class token and registers are left out. If the grids differ in size, the larger is averaged to the smaller.

    The layers must be named: first those that are copied (in the paper the first two blocks), then the last block.
    The masked tokens depend on the seed, the number of batches so far, and the samples' positions in the dataset (or in
    the batch, if the loader gives no index): a resumed run masks the same tokens as an uninterrupted one.

    Shape:
        tokens [B, N, D] of both sides, two layers or more; two losses of shape [].

    Args:
        mask_ratio: r, the share of tokens that are masked.
        seed: seed of the random choice.

    Raises:
        ValueError: for a hyper-parameter out of its range, a single layer, padded tokens, or a last layer whose tokens
            have no known grid.

    Example:
        >>> ViTKD(mask_ratio=0.25).needs.scope
        'sample'

    Reference:
        Yang et al., ViTKD: Practical Guidelines for ViT Feature Knowledge Distillation, 2022, and the authors' code.

    Deviations:
        The authors draw from the process's global generator; their grid is always square.
    """

    needs = Needs(
        roles=("tokens",),
        scope="sample",
        naming="the layers whose tokens are copied and then the one whose tokens are generated, as in "
        "['blocks.0', 'blocks.1', 'blocks.11']",
    )
    draws: Tensor

    def __init__(self, *, mask_ratio: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        check.hyperparameters("ViTKD", CHECKS, mask_ratio=mask_ratio, seed=seed)
        self.mask_ratio, self.seed = mask_ratio, seed
        self.mimic = TokenMimicLoss()
        self.generation = MaskedGenerationLoss(mask_ratio=mask_ratio)
        self.maps = nn.ModuleList()
        self.generator: nn.Module = nn.Identity()
        self.register_parameter("hidden", None)
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    def build(self, probe: Probe) -> None:
        """Make the linear maps and the generator, and try them on tensors of the probed shapes."""
        pairs = probe.pairs("tokens")
        if len(pairs) < 2:
            raise ValueError(
                "`ViTKD` copies the tokens of one or more layers and generates those of a last one, got a single layer."
            )
        self.maps = nn.ModuleList(width_projector(student[2], teacher[2]) for student, teacher in pairs)
        width = pairs[-1][1][2]
        self.hidden = nn.Parameter(torch.zeros(width))
        self.generator = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )
        with torch.no_grad():
            self.loss(probe.zeros())

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Return the two parts."""
        pairs = token_pairs(signals)
        if any(pair.real is not None for pair in pairs):
            raise ValueError("`ViTKD` reads the patches of images, which fill a grid, got tokens with padding.")
        first = zip(self.maps[:-1], pairs[:-1], strict=True)
        copied = [self.mimic(part(pair.student), pair.teacher) for part, pair in first]
        return {"mimic": torch.stack(copied).sum(), "generation": self._generated(pairs[-1], signals.index)}

    def update(self, signals: Signals) -> None:
        """Advance the random choice for the next batch."""
        self.draws += 1

    def _generated(self, pair: TokenPair, index: Tensor | None) -> Tensor:
        if pair.grid is None:
            raise ValueError("`ViTKD` generates tokens on the grid of an image, which is not known for the last layer.")
        tokens = self.maps[-1](pair.student)
        mask = self._hidden(tokens, index)
        tokens = torch.where(mask.unsqueeze(2), self.hidden.to(tokens.dtype), tokens)
        made = as_tokens(self.generator(as_maps(tokens, Patches(0, *pair.grid))))
        value: Tensor = self.generation(made, pair.teacher, mask)
        return value

    def _hidden(self, tokens: Tensor, index: Tensor | None) -> Tensor:
        """Return which tokens are masked, bool [B, N]: those with the largest of N random numbers."""
        rows, count = tokens.shape[:2]
        here = torch.arange(rows, device=tokens.device)
        samples = rank() * rows + here if index is None else index.to(here.device)
        ranks = keyed_uniform(self.seed, self.draws, samples, count).argsort(1).argsort(1)
        return ranks >= int(count * (1 - self.mask_ratio))
