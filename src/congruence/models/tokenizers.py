"""Tokenizers from files: a folder or tokenizer.json of the Hugging Face libraries, or a JSON object of words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from congruence.core import check
from congruence.core.files import absent, damaged

_PADS, _UNKNOWN = ("[PAD]", "<pad>"), ("[UNK]", "<unk>")
_WORD = re.compile(r"\w+|[^\w\s]")


class Words:
    """A simple tokenizer:

    words and punctuation marks, unchanged or in lower case, numbered by a vocabulary. An empty text becomes one unknown
    word, so that no row is all padding.

    Args:
        vocabulary: a mapping from words to numbers from 0 on, with "[PAD]" (or "<pad>") and "[UNK]" (or "<unk>").
        max_length: number of tokens of each text.

    Raises:
        ValueError: for a vocabulary without these two words, or with other values.

    Example:
        >>> words = Words({"[PAD]": 0, "[UNK]": 1, "hello": 2}, max_length=3)
        >>> {name: rows.tolist() for name, rows in words(["Hello you"]).items()}
        {'input_ids': [[2, 1, 0]], 'attention_mask': [[1, 1, 0]]}
    """

    def __init__(self, vocabulary: Mapping[str, int], *, max_length: int) -> None:
        numbers = vocabulary.values() if isinstance(vocabulary, Mapping) else ()
        if not numbers or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers):
            check.fail("Words", "vocabulary", "words and their numbers from 0 on", type(vocabulary).__name__)
        self.vocabulary, self.max_length = dict(vocabulary), max_length
        self._pad, self._unknown = (self._special(names) for names in (_PADS, _UNKNOWN))

    def _special(self, names: Sequence[str]) -> int:
        found = next((name for name in names if name in self.vocabulary), None)
        if found is None:
            check.fail("Words", "vocabulary", f"one with the word {' or '.join(map(repr, names))}", "one without")
        return self.vocabulary[found]

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return the numbers of the words of texts, cut or padded: int64 [B, max_length]."""
        ids = torch.full((len(texts), self.max_length), self._pad)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            numbers = [self._number(word) for word in _WORD.findall(text)[: self.max_length]] or [self._unknown]
            ids[row, : len(numbers)] = torch.tensor(numbers)
            mask[row, : len(numbers)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def _number(self, word: str) -> int:
        return self.vocabulary.get(word, self.vocabulary.get(word.lower(), self._unknown))

    def to_str(self) -> str:
        """Return all that decides what it gives, as a text."""
        return json.dumps([sorted(self.vocabulary.items()), self.max_length])


def read_tokenizer(path: str | Path, max_length: int) -> Any:
    """Return the tokenizer in a file or a folder. Nothing is downloaded, and no code is run.

    Args:
        path: a folder as transformers writes it, a tokenizer.json, or a JSON object of words and their numbers, for
            `Words`.
        max_length: number of tokens of each text.

    Raises:
        ValueError: for a file that is absent, damaged or of another kind, or a library that is not installed.
    """
    path = Path(path)
    if path.is_dir():
        return _of_folder(path)
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise absent(path) from None
    except (OSError, ValueError):
        raise damaged(path, "it is not JSON text") from None
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        return _of_file(path, max_length)
    try:
        return Words(content, max_length=max_length)
    except ValueError as error:
        raise ValueError(f"The tokenizer '{path}' cannot be used: {error}") from None


def _of_folder(path: Path) -> Any:
    try:
        from transformers import AutoTokenizer
    except (ImportError, RuntimeError):
        raise ValueError(
            f"The tokenizer in '{path}' needs the package transformers, which is not installed: install it, or name "
            "the folder's tokenizer.json instead."
        ) from None
    try:
        return AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except Exception as error:  # another library may raise anything
        raise ValueError(
            f"The folder '{path}' holds no tokenizer that transformers reads: {check.sentence(error)}"
        ) from error


def _of_file(path: Path, max_length: int) -> Any:
    try:
        from tokenizers import Tokenizer
    except (ImportError, RuntimeError):
        raise ValueError(
            f"The tokenizer '{path}' needs the package tokenizers, which is not installed: install it."
        ) from None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # another library may raise anything
        raise damaged(path, f"tokenizers cannot read it ({check.sentence(error)})") from error
    # Cut by itself, so that what ends a text stays at its end.
    tokenizer.enable_truncation(max_length)
    if tokenizer.padding is None:
        pad = next((name for name in _PADS if tokenizer.token_to_id(name) is not None), None)
        if pad is not None:
            tokenizer.enable_padding(pad_id=tokenizer.token_to_id(pad), pad_token=pad)
    return tokenizer
