"""MiniLMv2: how queries, keys and values of one layer relate to each other, whatever the widths and attention heads."""

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
    """`attention_relation_loss` of queries, of keys and of values of one layer, added.

    L = ℓ(queries) + ℓ(keys) + ℓ(values). The layers must be named, on each side either three, in this order (of BERT
    "encoder.layer.11.attention.self.query", and "key" and "value" there), or one Linear that gives all three side by
    side, to three times its own width, as "blocks.11.attn.qkv" of timm's transformers; it is cut in three equal parts.
    (A model that has queries, keys and values of each head together, as GPT-NeoX and BLOOM do, is not to be read like
    this.) The paper takes the last layer, of large teachers one from their upper middle. Padded tokens are left out; of
    an image only the patches are related, without class token and registers.

    Shape:
        tokens [B, N, D] of both sides, widths may differ; a loss of shape [].

    Args:
        relation_heads: in how many parts each side's width is cut, a divisor of all the widths; None for their largest
            common divisor up to 48, which is what BERT-base and a student of width 384 are usually cut in.

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
                    f"`MiniLM` cuts one layer in queries, keys and values only where it is a Linear to three times its "
                    f"own width, which '{probe.paths[key][0]}' of the {side} is not: name the three layers."
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
    """Return the signals with three layers on each side, a single one cut in three."""
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
    """Whether a path is that of a linear layer three times as wide as what enters it."""
    parsed, layers = parse(path), Layers(model, "model")
    layer = layers.modules[layers.resolve(parsed)]
    before, after = getattr(layer, "in_features", None), getattr(layer, "out_features", None)  # of a quantised one, too
    weight = getattr(layer, "weight", None)
    if None in (before, after) and isinstance(weight, Tensor) and weight.dim() == 2:
        before, after = sorted(weight.shape)  # GPT-2 has its weights turned
    return parsed.side == "output" and before is not None and after == 3 * before
