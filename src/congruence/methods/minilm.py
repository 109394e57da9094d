"""MiniLMv2: relations of the queries, keys and values of one layer, for any widths and numbers of heads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from congruence.core import check
from congruence.losses.minilm import AttentionRelationLoss
from congruence.methods.method import Method, Needs, Probe, Signals
from congruence.methods.token_pairs import token_pairs
from congruence.models.layers import Layers, parse

CHECKS: Mapping[str, check.Constraint] = {
    "relation_heads": check.Real(low=1, closed="low", integer=True, optional=True)
}
_MOST = 48  # relation heads by default
_SIDES = ("student", "teacher")


class MiniLM(Method):
    """Sum of the `attention_relation_loss` of queries, keys and values of one layer.

    L = ℓ(queries) + ℓ(keys) + ℓ(values). The layers must be named. On each side, name either three layers in this order
    (in BERT "encoder.layer.11.attention.self.query", then "key" and "value"), or one Linear whose output holds all
    three side by side, three times as wide as its input, such as "blocks.11.attn.qkv" in timm's transformers; it is cut
    in three equal parts. (This does not work for models that store queries, keys and values of each head together, such
    as GPT-NeoX and BLOOM.) The paper uses the last layer, and for large teachers one from the upper middle. Padded
    tokens are left out; for images only patches are used, without class token and registers.

    Shape:
        tokens [B, N, D] of both sides, widths may differ; a loss of shape [].

    Args:
        relation_heads: the number of parts into which each side's width is cut, a divisor of all widths; None for their
            largest common divisor up to 48, the usual number for BERT-base and a student of width 384.

    Raises:
        ValueError: for layers that are neither three nor one that holds three, or a number of heads that does not fit.

    Example:
        >>> MiniLM(relation_heads=12).needs.roles
        ('tokens',)

    Reference:
        Wang et al., MiniLMv2: Multi-Head Self-Attention Relation Distillation, Findings of ACL 2021, from the
        definition.

    Deviations:
        Those of the loss.
    """

    needs = Needs(
        roles=("tokens",),
        scope="labelled",
        naming="the queries, keys and values of one layer, as in ['encoder.layer.11.attention.self.query', "
        "'encoder.layer.11.attention.self.key', 'encoder.layer.11.attention.self.value'], or the one Linear that gives "
        "all three, as in 'blocks.11.attn.qkv'",
    )

    def __init__(self, *, relation_heads: int | None = None) -> None:
        super().__init__()
        check.hyperparameters("MiniLM", CHECKS, relation_heads=relation_heads)
        self.relation_heads = relation_heads
        self.criterion = AttentionRelationLoss(relation_heads=relation_heads or 1)

    def build(self, probe: Probe) -> None:
        """Check the layers, find the number of heads, and try the loss on tensors of the probed shapes."""
        keys = {side: (side, "tokens") for side in _SIDES}
        for side, key in keys.items():
            if len(probe.paths[key]) == 1 and not _gives_three(probe.modules[side], probe.paths[key][0]):
                raise ValueError(
                    f"`MiniLM` cuts one layer in queries, keys and values only if it is a Linear to three times its "
                    f"input's width, which '{probe.paths[key][0]}' of the {side} is not: name the three layers."
                )
            if len(probe.paths[key]) not in (1, 3):
                got = len(probe.paths[key])
                raise ValueError(f"`MiniLM` reads queries, keys and values of one layer, got {got} of the {side}.")
        signals = _apart(probe.zeros())
        widths = {tensor.shape[2] for side in _SIDES for tensor in signals.layers(side, "tokens")}
        self.criterion = AttentionRelationLoss(relation_heads=self.relation_heads or _divisor(math.gcd(*widths)))
        with torch.no_grad():
            self.loss(signals)

    def loss(self, signals: Signals) -> Mapping[str, Tensor]:
        """Add the losses of queries, keys and values."""
        pairs = token_pairs(_apart(signals))
        return {"loss": torch.stack([self.criterion(pair.student, pair.teacher, pair.real) for pair in pairs]).sum()}


def _apart(signals: Signals) -> Signals:
    """Return the signals with three layers on each side; a single layer is cut in three."""
    tensors, masks, grids = dict(signals.tensors), dict(signals.masks), dict(signals.grids)
    for side in _SIDES:
        key = (side, "main", "tokens")
        if len(tensors[key]) == 1:
            tensors[key] = tensors[key][0].chunk(3, 2)
            masks[key] = masks.get(key, (None,)) * 3
            grids[key] = grids.get(key, (None,)) * 3
    return replace(signals, tensors=tensors, masks=masks, grids=grids)


def _divisor(width: int) -> int:
    return next(heads for heads in range(min(_MOST, width), 0, -1) if width % heads == 0)


def _gives_three(model: nn.Module, path: str) -> bool:
    """Whether a path names a linear layer whose output is three times as wide as its input."""
    parsed, layers = parse(path), Layers(model, "model")
    layer = layers.modules[layers.resolve(parsed)]
    # quantised layers have it too
    before, after = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    weight = getattr(layer, "weight", None)
    if None in (before, after) and isinstance(weight, Tensor) and weight.dim() == 2:
        before, after = sorted(weight.shape)  # GPT-2 stores its weights transposed
    return parsed.side == "output" and before is not None and after == 3 * before
