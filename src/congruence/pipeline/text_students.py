"""The tokenizer of a student "text:…", which a stage learns from its training texts where none is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from congruence.data.datasets.texts import TextDataset
from congruence.models import named
from congruence.models.adapters.text_encoders import VOCABULARY, learn_tokenizer, tokenizer_of

if TYPE_CHECKING:
    from congruence.config.tables import ModelConfig
    from congruence.data.sources.load import Splits


def with_tokenizer(model: ModelConfig, splits: Splits) -> ModelConfig:
    """Return the table of a model "text:…" with the content of its tokenizer in its options; others unchanged.

    Raises:
        ValueError: for data without texts from which a tokenizer could be learned, or a tokenizer that cannot be read.
    """
    parts = named.split(model.model or "")
    if parts is None or parts[0] != "text":
        return model
    options = dict(model.options)
    size, given = options.pop("vocabulary", None) or VOCABULARY, options.get("tokenizer")
    if given is not None:
        content = tokenizer_of(given)
    elif isinstance(splits.train, TextDataset):
        content = learn_tokenizer(splits.train.selected_texts(), size)
    else:
        raise ValueError(f"The model '{model.model}' takes texts, and the data '{splits.train.name}' has none.")
    return model.model_copy(update={"options": {**options, "tokenizer": content}})
