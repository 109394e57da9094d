"""`TextDataset`: texts that are tokenised once for each model; batches are gathered from the tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor

from congruence.core.check import fail
from congruence.core.devices import to_device
from congruence.core.inputs import STUDENT, Inputs
from congruence.data.augment.crops import PLAIN_VIEWS
from congruence.data.datasets.batched import BatchDataset, Indices, Spec
from congruence.models.inputs import TextInput

_AT_ONCE = 1024  # texts that a tokenizer gets at once
_SMALL = torch.iinfo(torch.int32)


class Tokens:
    """The tokens of all texts for each tokenizer, made on first use and kept in memory; subsets share them.


    Args:
        texts: all texts of a dataset.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self._made: dict[Any, tuple[TextInput, dict[str, Tensor], dict[str, torch.dtype]]] = {}

    def rows(self, taken: TextInput, rows: Tensor, device: torch.device | str | None) -> dict[str, Tensor]:
        """Return a model's inputs for some texts, by the names of its arguments: [B, L]."""
        _, kept, kinds = self._of(taken)
        moved = {name: to_device(array.index_select(0, rows), device) for name, array in kept.items()}
        return {name: array.to(kinds[name]) for name, array in moved.items()}

    def largest(self, taken: TextInput, rows: Tensor) -> list[int]:
        """Return, for each argument, the text that contains the largest number."""
        return [int(array.index_select(0, rows).amax(1).argmax()) for array in self._of(taken)[1].values()]

    def _of(self, taken: TextInput) -> tuple[TextInput, dict[str, Tensor], dict[str, torch.dtype]]:
        if taken.key not in self._made:
            blocks = [taken(self.texts[at : at + _AT_ONCE]) for at in range(0, len(self.texts), _AT_ONCE)]
            names = list(blocks[0]) if blocks else []
            whole = {name: torch.cat([block[name] for block in blocks]) for name in names}
            whole = _trimmed(whole) if taken.trim else whole
            kinds = {name: array.dtype for name, array in whole.items()}
            self._made[taken.key] = (taken, {name: _smaller(array) for name, array in whole.items()}, kinds)
        return self._made[taken.key]


def _trimmed(tokens: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the last positions that no text has a token at: one length for all, so no text depends on its batch."""
    mask = tokens.get("attention_mask")
    if mask is None or not mask.numel():
        return tokens
    used = mask.amax(0).nonzero()
    longest = int(used[-1]) + 1 if len(used) else mask.shape[1]
    return {name: array[:, :longest].contiguous() for name, array in tokens.items()}


def _smaller(array: Tensor) -> Tensor:
    """Return int64 as int32 if the values fit, so that tokens take half the memory."""
    if array.dtype != torch.int64 or not array.numel():
        return array
    low, high = array.aminmax()
    return array.to(torch.int32) if int(low) >= _SMALL.min and int(high) <= _SMALL.max else array


@dataclass(frozen=True, eq=False, repr=False)
class TextDataset(BatchDataset):
    """Texts with labels, tokenised for each model.

    A map-style dataset of pairs (inputs of the models, label); an unlabelled text has label -1. On first use all texts
    are tokenised, once for each tokenizer, and the tokens stay in memory: 4 bytes for each token of each text and
    argument (a million texts of 128 tokens and their masks take 1 GB). Batches are gathered from them.

    Shape:
        labels int64 [N]; batches: a mapping of tensors [B, L], L the `max_length` of the model's `TextInput`, or the
        tokens of the longest text where it trims; if the models take different inputs, `congruence.Inputs` of such
        mappings.

    Args:
        texts: N texts.
        labels: classes from 0 on, -1 if unknown; None if there are no labels.
        inputs: how the models take texts: one `TextInput`, or one for each model by its name in the distiller
            ("student" applies to all students without an entry, "teacher" to all teachers). None: given later by
            `for_models`.
        classes: the number of classes; None to count the class names, else the labels.
        class_names: one name for each class, or empty.
        name: the name used in messages and records.
        rows: positions in `texts` of the samples in this dataset, None for all; set by `subset`.
        tokens: the tokens made so far, which copies share.

    Raises:
        ValueError: if arguments do not fit together; from a batch, if it is not known how a model takes texts.

    Example:
        >>> def letters(texts):
        ...     return {"input_ids": torch.tensor([[ord(c) % 32 for c in text.ljust(4)[:4]] for text in texts])}
        >>> data = TextDataset(["ab", "c", "da"], [0, 1, 0], inputs=TextInput(letters, max_length=4))
        >>> data.batch([0, 2])["input_ids"].tolist(), data.classes
        ([[1, 2, 0, 0], [4, 1, 0, 0]], 2)
    """

    texts: Sequence[str]
    labels: Tensor | None = None
    _: KW_ONLY
    inputs: TextInput | Mapping[str, TextInput] | None = None
    classes: int | None = None
    class_names: tuple[str, ...] = ()
    name: str = ""
    rows: Tensor | None = None
    tokens: Tokens | None = None

    def __post_init__(self) -> None:
        kind = type(self).__name__
        if self.tokens is None:
            texts = self.texts
            if isinstance(texts, str) or not isinstance(texts, Sequence):
                fail(kind, "texts", "a sequence of texts", type(texts).__name__)
            other = next((text for text in texts if not isinstance(text, str)), None)
            if other is not None:
                fail(kind, "texts", "texts", type(other).__name__)
            object.__setattr__(self, "tokens", Tokens(texts))
        object.__setattr__(self, "class_names", tuple(self.class_names))
        if self.classes is None and self.class_names:
            object.__setattr__(self, "classes", len(self.class_names))
        self._check_labels("texts")
        if self.classes is None and self.labels is not None and len(self.labels):
            object.__setattr__(self, "classes", int(self.labels.max()) + 1 or None)
        given = self.inputs if isinstance(self.inputs, Mapping) else {"inputs": self.inputs}
        for name, taken in given.items():
            if not isinstance(taken, TextInput) and self.inputs is not None:
                got = type(taken).__name__ + (f" as '{name}'" if given is self.inputs else "")
                fail(kind, "inputs", "a TextInput, or one for each model by its name", got)
        if isinstance(self.inputs, Mapping):
            object.__setattr__(self, "inputs", dict(self.inputs) or None)

    @property
    def _tokens(self) -> Tokens:
        return cast(Tokens, self.tokens)  # there from `__post_init__` on

    @property
    def in_memory(self) -> bool:
        """True: a batch is one gather."""
        return True

    @property
    def held(self) -> int:
        """The number of texts before `rows` are selected."""
        return len(self.texts)

    def __repr__(self) -> str:
        return f"TextDataset({self.name!r}, {len(self)} texts, classes={self.classes})"

    def for_models(self, **inputs: TextInput) -> Self:
        """Return a dataset whose batches are `Inputs`: the same texts, prepared for each model.


        Args:
            **inputs: a `TextInput` by the model's name in the distiller, or by "student" for all students and "teacher"
                for all teachers without an entry.
        """
        if not inputs:
            fail("TextDataset", "inputs", "a TextInput for each model, by its name", "none")
        return replace(self, inputs=inputs)

    def selected_texts(self) -> list[str]:
        """Return the texts of this dataset's samples."""
        return [self.texts[row] for row in self._rows(self.index).tolist()]

    def model_input(self, model: str = STUDENT, kind: str = STUDENT) -> TextInput | None:
        """Return how a model takes these texts, None if unknown."""
        if not isinstance(self.inputs, Mapping):
            return self.inputs
        return self.inputs.get(model, self.inputs.get(kind))

    def drawn(
        self,
        indices: Indices,
        *,
        epoch: int = 0,
        seed: int = 0,
        augment: Spec | bool | None = False,
        view: str = "main",
        device: torch.device | str | None = None,
    ) -> Any:
        """Return what `batch` does."""
        self.check_augment(augment)
        rows, tokens, inputs = self._rows(self._positions(indices)), self._tokens, self.inputs
        if inputs is None:
            fail(
                "TextDataset",
                "inputs",
                "given before a batch is read: a TextInput(tokenizer, max_length=...), or one for each model by "
                "`for_models` (in a configuration: tokenizer and max_length in the model's table `inputs`)",
                None,
            )
        if isinstance(inputs, TextInput):
            return tokens.rows(inputs, rows, device)
        made = {taken.key: tokens.rows(taken, rows, device) for taken in inputs.values()}
        return Inputs(**{name: dict(made[taken.key]) for name, taken in inputs.items()})

    def example(self) -> Any:
        """Return the models' inputs for a few samples, including those with the largest tokens.

        These reveal a vocabulary that is too small.
        """
        inputs = self.inputs.values() if isinstance(self.inputs, Mapping) else [self.inputs]
        rows = self._rows(self.index)
        large = [at for taken in inputs if taken is not None and len(self) for at in self._tokens.largest(taken, rows)]
        return self.batch(list(dict.fromkeys([*large, *range(min(2, len(self)))])))

    def prepared(self, drawn: Any) -> Any:
        """Return tokens unchanged: they are the models' inputs."""
        return drawn

    def check_augment(self, augment: Spec | bool | None) -> None:
        """Raise a ValueError for any augmentation: texts have none."""
        if augment is not None and not isinstance(augment, bool):
            fail("TextDataset", "augment", "None, since texts are not augmented", augment)

    def check_views(self, views: Sequence[str]) -> None:
        """Raise a ValueError for views, which would only be copies of the text."""
        wrong = [view for view in views if view != "main" and view not in PLAIN_VIEWS]
        if wrong and len(views) > 1:
            fail("TextDataset", "views", "'main' or 'clean', since texts are not augmented", repr(wrong[0]))

    def varies(self, augment: Spec | bool | None) -> bool:
        """False: a text does not change between epochs."""
        return False

    def fingerprint(self, *, labels: bool = True) -> str:
        """Return the SHA-256 of the dataset's content: tokens (or, without a tokenizer, the texts) and labels."""
        digest = hashlib.sha256(json.dumps({"texts": len(self)}).encode())
        if self.inputs is None:
            for row in self._rows(self.index).tolist():
                digest.update(json.dumps(self.texts[row]).encode())
        else:
            for block in self.index.split(4096):
                batch = self.batch(block)
                by_model = batch if isinstance(batch, Inputs) else {"": batch}
                for model, arguments in sorted(by_model.items()):
                    for argument, tokens in sorted(arguments.items()):
                        digest.update(f"{model} {argument} {tokens.dtype} {list(tokens.shape)}".encode())
                        digest.update(tokens.contiguous().numpy().data)
        if labels:
            digest.update(b"none" if self.labels is None else self.labels.contiguous().numpy().data)
            digest.update(str(self.classes).encode())
        return digest.hexdigest()
