"""Sentence encoders of sentence-transformers by "st:FOLDER"."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from congruence.models.adapters.libraries import folder_of, library, loading
from congruence.models.inputs import TextInput


def load_st(rest: str, *, trust: bool = False) -> nn.Module:
    """Return a SentenceTransformer from its folder, in float32 on the host.

    Args:
        rest: a folder that its `save_pretrained` wrote, or the name of a model that it has fetched before:
            nothing is fetched here.
        trust: whether code of the folder may run.

    Raises:
        ValueError: if it cannot be loaded.
    """
    name = f"st:{rest}"
    folder = folder_of(name, "sentence-transformers")
    if not any((folder / file).is_file() for file in ("modules.json", "config.json")):
        raise ValueError(f"The folder '{folder}' has no modules.json, by which sentence-transformers knows a model.")
    sentence_transformers = library("sentence_transformers", "sentence-transformers", name)
    with loading(name, "sentence-transformers"):
        model: nn.Module = sentence_transformers.SentenceTransformer(
            str(folder),
            device="cpu",
            local_files_only=True,
            trust_remote_code=trust,
            model_kwargs={"dtype": torch.float32},
        )
    if any(type(part).__name__ == "StaticEmbedding" for part in model.modules()):
        raise ValueError(
            f"The model '{name}' is a table of embeddings (StaticEmbedding), which takes the tokens of all texts in "
            "one row: give it as a module of your own, a table and a mean over tokens, by package.module:callable."
        )
    return model.train()


def text_input(model: Any) -> TextInput | None:
    """Return how a SentenceTransformer's own tokenizer makes tokens of texts."""
    tokenizer, length = model.tokenizer, model.max_seq_length
    if tokenizer is None:
        return None
    longest = getattr(tokenizer, "model_max_length", 512)
    known = length if length and math.isfinite(length) else min(longest, 512)
    return TextInput(tokenizer, max_length=int(known), trim=True)
