"""How a model takes its inputs: `ImageInput` (size and normalisation) and `TextInput` (a tokenizer)."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from congruence.core import check
from congruence.core.devices import to_device
from congruence.models.tokenizers import read_tokenizer

_CHECKS: Mapping[str, check.Constraint] = {
    "interpolation": check.Choice(("bilinear", "bicubic")),
    "max_length": check.COUNT,
    "trim": check.Flag(),
}
# What a tokenizer of transformers says outside its backend.
_BESIDE = ("pad_token", "padding_side", "truncation_side", "model_input_names")


def normalized(numbers: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (x/255 − mean) / std for each channel of float32 images [B, C, H, W], in their own memory."""
    centre, scale = to_device(torch.tensor([mean, std], dtype=torch.float32), numbers.device)[..., None, None]
    return numbers.div_(255).sub_(centre).div_(scale)


@dataclass(frozen=True)
class ImageInput:
    """How a model takes images: resized to `size`, scaled to [0, 1], then (image − mean) / std for each channel.

    Grey images are shown to a model of three channels three times over, as RGB.

    Args:
        mean: one number for each channel of the model, for images scaled to [0, 1].
        std: the standard deviation > 0 of each channel.
        size: (height, width); None keeps the size of the images.
        interpolation: "bilinear" or "bicubic", with antialiasing.

    Raises:
        ValueError: if an argument is not allowed.

    Shape:
        images uint8 [B, C, H, W] or, where C is 3, [B, 1, H, W]; result float32 [B, C, height, width].

    Example:
        >>> ImageInput(mean=(0.5,), std=(0.5,), size=(2, 2))(torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)).flatten()
        tensor([1., 1., 1., 1.])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        check.hyperparameters("ImageInput", _CHECKS, interpolation=self.interpolation)
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if not values or (name == "std" and min(values) <= 0):
                check.fail("ImageInput", name, f"numbers{' > 0' if name == 'std' else ''}, one a channel", values)
            object.__setattr__(self, name, values)
        if len(self.mean) != len(self.std):
            check.fail("ImageInput", "std", f"as many numbers as the mean has ({len(self.mean)})", len(self.std))
        if self.size is not None:
            size = (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)
            if len(size) != 2 or min(size) < 1:
                check.fail("ImageInput", "size", "(height, width)", self.size)
            object.__setattr__(self, "size", size)

    def __call__(self, images: Tensor) -> Tensor:
        """Return images as the model takes them."""
        if images.dtype != torch.uint8 or images.dim() != 4 or not self.takes(images.shape[1]):
            wanted = f"a uint8 tensor [B, {len(self.mean)}, H, W]"
            check.fail("ImageInput", "images", wanted, f"{images.dtype} of shape {check.shape(images)}")
        numbers = images.to(torch.float32)
        if self.size is not None and tuple(images.shape[2:]) != self.size:
            numbers = interpolate(numbers, self.size, mode=self.interpolation, antialias=True).clamp_(0, 255)
        if numbers.shape[1] < self.channels:
            numbers = numbers.repeat(1, self.channels, 1, 1)
        return normalized(numbers, self.mean, self.std)

    @property
    def channels(self) -> int:
        """The channels of the model's input."""
        return len(self.mean)

    def takes(self, channels: int) -> bool:
        """Whether images of so many channels can be made the model's input."""
        return channels == self.channels or (channels, self.channels) == (1, 3)

    def describe(self) -> dict[str, Any]:
        """Return it as plain values, which tell it from others."""
        size = None if self.size is None else list(self.size)
        return {"mean": list(self.mean), "std": list(self.std), "size": size, "interpolation": self.interpolation}


class TextInput:
    """How a model takes text:

    by a tokenizer whose tokens are truncated and padded to one length. With one length for all, a sample's input, and a
    teacher's output for it, do not depend on its batch.

    Args:
        tokenizer: a tokenizer of transformers, a `tokenizers.Tokenizer` that pads with its own padding token, a
            function from a list of texts to a mapping of integer tensors [B, max_length], or the path of a
            tokenizer.json, of a folder as transformers writes it, or of a JSON object of words and their numbers.
        max_length: number of tokens of each text.
        trim: whether a dataset leaves out the last positions that are padding in all its texts, for a model that takes
            any length and reads "attention_mask": short texts then cost it far less. The models of transformers,
            sentence-transformers, and of this library have it.

    Raises:
        ValueError: if an argument is not allowed, for a file that cannot be read, or, when called, for a tokenizer that
            has no padding token or returns tensors of another shape.

    Example:
        >>> def letters(texts):
        ...     return {"input_ids": torch.tensor([[ord(c) for c in text.ljust(4)[:4]] for text in texts])}
        >>> TextInput(letters, max_length=4)(["ab", "c"])["input_ids"].shape
        torch.Size([2, 4])
    """

    def __init__(self, tokenizer: Any, *, max_length: int, trim: bool = False) -> None:
        check.hyperparameters("TextInput", _CHECKS, max_length=max_length, trim=trim)
        if isinstance(tokenizer, str | Path):
            tokenizer = read_tokenizer(tokenizer, max_length)
        if not callable(tokenizer) and not callable(getattr(tokenizer, "encode_batch", None)):
            check.fail(
                "TextInput",
                "tokenizer",
                "a tokenizer, its path, or a function of a list of texts",
                type(tokenizer).__name__,
            )
        self.tokenizer, self.max_length, self.trim = tokenizer, max_length, trim

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return the tokens of texts, by the name of the model's argument, int64 [B, max_length]."""
        given = self._encode(list(texts))
        for name, tensor in given.items():
            expected = [len(texts), self.max_length]
            if not isinstance(tensor, Tensor) or list(tensor.shape) != expected:
                got = check.shape(tensor) if isinstance(tensor, Tensor) else type(tensor).__name__
                check.fail("TextInput", "tokenizer", f"one that gives tensors {expected}", f"{got} as '{name}'")
        return given

    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        tokenizer, length = self.tokenizer, self.max_length
        if hasattr(tokenizer, "encode_batch"):  # of the library tokenizers
            pads = tokenizer.token_to_id(tokenizer.padding["pad_token"]) if tokenizer.padding else None
            encodings = tokenizer.encode_batch(texts)
            rows = [encoding.ids[:length] for encoding in encodings]
            if pads is None and any(len(row) < length for row in rows):
                check.fail("TextInput", "tokenizer", "one that pads (enable_padding)", "one without a padding token")
            fill = 0 if pads is None else pads
            masks = [encoding.attention_mask[:length] for encoding in encodings]
            return {
                "input_ids": torch.tensor([row + [fill] * (length - len(row)) for row in rows]),
                "attention_mask": torch.tensor([mask + [0] * (length - len(mask)) for mask in masks]),
            }
        if not hasattr(tokenizer, "pad_token"):  # a function
            return dict(tokenizer(texts))
        if tokenizer.pad_token is None:
            check.fail("TextInput", "tokenizer", "one with a padding token", "one whose pad_token is None")
        given = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return dict(given)

    @functools.cached_property
    def key(self) -> Hashable:
        """What is equal only for two that cut texts alike: by content where that can be read, else by identity."""
        backend = getattr(self.tokenizer, "backend_tokenizer", self.tokenizer)
        if not callable(getattr(backend, "to_str", None)):
            return id(self.tokenizer), self.max_length, self.trim
        beside = [getattr(self.tokenizer, name, None) for name in _BESIDE]
        return _content(self.tokenizer), type(self.tokenizer).__name__, repr(beside), self.max_length, self.trim

    def describe(self) -> dict[str, Any]:
        """Return it as plain values, which tell it from others."""
        return {"tokenizer": _content(self.tokenizer), "max_length": self.max_length}


def _content(tokenizer: Any) -> str:
    """Return a hash of what a tokenizer does, or a function's name."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if callable(getattr(backend, "to_str", None)):
        text = backend.to_str()
        if backend is not tokenizer:  # each call of a tokenizer of transformers leaves its own cut and padding there
            settings = {key: value for key, value in json.loads(text).items() if key not in ("padding", "truncation")}
            text = json.dumps(settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
    if callable(getattr(tokenizer, "get_vocab", None)):
        vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
        return hashlib.sha256(f"{type(tokenizer).__name__} {vocabulary}".encode()).hexdigest()[:16]
    named: Callable[..., Any] | type = tokenizer if hasattr(tokenizer, "__qualname__") else type(tokenizer)
    return f"{named.__module__}.{named.__qualname__}"


ModelInput = ImageInput | TextInput
