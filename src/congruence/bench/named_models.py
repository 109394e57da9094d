"""What models by "KIND:REST" are in the identity of a cell: their files or options instead of their paths."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from congruence.config.tables import ModelConfig
from congruence.models import named
from congruence.models.adapters.libraries import folder_of
from congruence.models.adapters.text_encoders import tokenizer_of

_OF_FOLDERS = ("st", "hf")
_READ = (".safetensors", ".bin", ".json", ".txt", ".model")


def told(model: ModelConfig) -> dict[str, Any] | None:
    """Return what decides a model that is named by "KIND:REST"; None if it cannot be told.

    Of a folder of sentence-transformers or transformers these are its files; of a small encoder of texts its options,
    with the tokenizer's content.

    Example:
        >>> told(ModelConfig(model="text:static", options={"width": 64}))
        {'model': 'text:static', 'options': {'width': 64}}
        >>> told(ModelConfig(model="timm:resnet18")) is None
        True
    """
    parts = named.split(model.model or "")
    if parts is None or model.factory is not None:
        return None
    values = model.model_dump(mode="json", exclude_defaults=True)
    if parts[0] == "text":
        if "tokenizer" in model.options:
            content = tokenizer_of(model.options["tokenizer"])
            values["options"] = {**model.options, "tokenizer": hashlib.sha256(content.encode()).hexdigest()[:16]}
        return values
    if parts[0] not in _OF_FOLDERS or model.weights or model.start:
        return None
    return {**values, "model": f"{parts[0]}:{_content(folder_of(model.model or '', 'transformers'))}"}


@functools.cache
def _content(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(each for each in folder.rglob("*") if each.is_file() and each.suffix in _READ):
        digest.update(f"{path.relative_to(folder).as_posix()} ".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
