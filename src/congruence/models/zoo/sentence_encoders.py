"""Small sentence encoders: a transformer in the layout of BERT, and a table of embeddings with a mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, scaled_dot_product_attention

_EPS = 1e-12  # of BERT's layer norms
_DEVIATION = 0.02  # of BERT's initial weights


def mean_of_tokens(rows: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the real tokens of each text, brought to length 1; zeros of a text without tokens.

    Shape:
        `rows` [B, L, D], `mask` [B, L], 1 for a real token; returns [B, D].

    Example:
        >>> mean_of_tokens(torch.tensor([[[3.0, 4.0], [9.0, 9.0]]]), torch.tensor([[1, 0]])).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """
    real = mask.unsqueeze(2).to(rows.dtype)
    return normalize((rows * real).sum(1) / real.sum(1).clamp(min=1), dim=1)


class _Layer(nn.Module):
    """One layer of BERT, with the names of its parameters there."""

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.heads = heads
        read = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"self": read, "output": _joined(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, feed_forward)})
        self.output = _joined(feed_forward, width)

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        read: nn.ModuleDict = self.attention["self"]  # type: ignore[assignment]
        query, key, value = (
            read[name](rows).unflatten(2, (self.heads, -1)).transpose(1, 2) for name in ("query", "key", "value")
        )
        seen = scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
        rows = _add(self.attention["output"], seen, rows)
        return _add(self.output, gelu(self.intermediate["dense"](rows)), rows)


def _joined(given: int, width: int) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(given, width), "LayerNorm": nn.LayerNorm(width, eps=_EPS)})


def _add(part: nn.Module, new: Tensor, rows: Tensor) -> Tensor:
    """Return LayerNorm(dense(new) + rows)."""
    result: Tensor = part["LayerNorm"](part["dense"](new) + rows)  # type: ignore[index]
    return result


class TextTransformer(nn.Module):
    """A transformer encoder; a text's embedding is the mean of its tokens, brought to length 1.

    Its parameters are called and computed with as those of `BertModel` of transformers, without token types, dropout
    and pooler, so that they can be saved as one.

    Shape:
        `input_ids`, `attention_mask` [B, L]; returns [B, width].

    Args:
        tokens: the number of tokens that the tokenizer knows.
        layers: layers.
        width: width of tokens and embedding.
        heads: attention heads, a divisor of `width`.
        feed_forward: width between the two Linear layers; None for 4 · `width`.
        max_length: the most tokens of a text.
        tokenizer: content of the tokenizer.json.

    Example:
        >>> encoder = TextTransformer(50, layers=2, width=16, heads=4, max_length=8)
        >>> encoder(torch.ones(3, 8).long(), torch.ones(3, 8).long()).shape
        torch.Size([3, 16])
    """

    def __init__(
        self,
        tokens: int,
        *,
        layers: int = 2,
        width: int = 128,
        heads: int = 4,
        feed_forward: int | None = None,
        max_length: int = 64,
        tokenizer: str = "",
    ) -> None:
        super().__init__()
        self.layers, self.width, self.heads = layers, width, heads
        self.feed_forward = feed_forward or 4 * width
        self.max_length, self.tokenizer = max_length, tokenizer
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(tokens, width),
                "position_embeddings": nn.Embedding(max_length, width),
                "LayerNorm": nn.LayerNorm(width, eps=_EPS),
            }
        )
        self.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList(_Layer(width, heads, self.feed_forward) for _ in range(layers))}
        )
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=_DEVIATION)
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.bias)

    @property
    def embedding_dim(self) -> int:
        """The width of the embedding."""
        return self.width

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return one embedding for each text."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        rows = self.embeddings["word_embeddings"](input_ids) + self.embeddings["position_embeddings"](places)
        rows = self.embeddings["LayerNorm"](rows)
        mask = attention_mask.bool()[:, None, None]
        for layer in self.encoder["layer"].children():
            rows = layer(rows, mask)
        return mean_of_tokens(rows, attention_mask)


class StaticText(nn.Module):
    """A table of embeddings; a text's embedding is the mean of its tokens, brought to length 1.

    Shape:
        `input_ids`, `attention_mask` [B, L]; returns [B, width].

    Args:
        tokens: the number of tokens that the tokenizer knows.
        width: width of the embedding.
        max_length: the most tokens of a text.
        tokenizer: content of the tokenizer.json.

    Example:
        >>> encoder = StaticText(50, width=16, max_length=8)
        >>> encoder(torch.ones(3, 8).long(), torch.ones(3, 8).long()).shape
        torch.Size([3, 16])
    """

    def __init__(self, tokens: int, *, width: int = 128, max_length: int = 64, tokenizer: str = "") -> None:
        super().__init__()
        self.width, self.max_length, self.tokenizer = width, max_length, tokenizer
        self.embedding = nn.Embedding(tokens, width)
        nn.init.normal_(self.embedding.weight, std=0.1)

    @property
    def embedding_dim(self) -> int:
        """The width of the embedding."""
        return self.width

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return one embedding for each text."""
        return mean_of_tokens(self.embedding(input_ids), attention_mask)
