"""What a dry run shows of the layouts of a model's tensors: which layers gave and took each, and what these say."""

from __future__ import annotations

import contextlib
import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from congruence.models.layers import LayerPath, Layers, parse
from congruence.models.layouts import MAPS, MOST, canonical_shape, layout_of

_POOLING = re.compile(r"(?:Avg|Max|LP)Pool(\d)d$")
_TRANSFORMERS = (
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
    nn.Transformer,
)


class Seen(NamedTuple):
    """A tensor as it entered or left a layer, and the layout that this layer says it has."""

    layer: str
    side: str
    call: int
    tensor: int  # its number: other than an id, never that of another tensor
    shape: torch.Size
    word: str | None


class Observed:
    """All tensors that entered or left a layer in one dry run, in order, without holding them.

    Args:
        layers: of the model.

    Example:
        >>> layers = Layers(nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU()), "student")
        >>> observed = Observed(layers)
        >>> with observed.watching():
        ...     output = layers.inner(torch.ones(2, 3, 9))
        >>> from congruence.models.layers import parse
        >>> observed.layout(parse("1"), "1", output.shape)
        'BCN'
    """

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._seen: list[Seen] = []
        self._calls: dict[str, int] = {}
        self.padding: list[tuple[str, str, torch.Size]] = []  # layers that took a padding mask: its name and shape
        self._time_first: list[bool] = []  # of the layers that are running, those that say where the batch is
        self._alive: list[weakref.ReferenceType[Tensor]] = []
        self._numbers: dict[int, int] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the forwards of a with-block."""
        handles = []
        first = self._layers.canonical.items()
        watched = {name: self._layers.modules[name] for name, canonical in first if name == canonical}
        try:
            for layer, module in watched.items():
                if not isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                    handles.append(module.register_forward_pre_hook(self._entering(layer), with_kwargs=True))
                    handles.append(module.register_forward_hook(self._leaving(layer)))
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._alive, self._numbers, self._time_first = [], {}, []  # weak references cannot be copied or pickled

    def _number(self, tensor: Tensor) -> int:
        """Return a number for a tensor that no other one has, also where a later one lies at its place in memory."""
        reference = weakref.ref(tensor)  # one object for a living tensor; kept, so that its id is used once
        if id(reference) not in self._numbers:
            self._numbers[id(reference)] = len(self._alive)
            self._alive.append(reference)
        return self._numbers[id(reference)]

    def _entering(self, layer: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            time_first = _time_first(module)
            if time_first is not None:
                self._time_first.append(time_first)
            self._calls[layer] = self._calls.get(layer, 0) + 1
            self._note(layer, module, "input", (args, kwargs))
            self.padding += [
                (layer, name, value.shape)
                for name, value in kwargs.items()
                if "padding_mask" in name and isinstance(value, Tensor) and not value.is_nested
            ]
            if isinstance(module, nn.Embedding) and args and _ends_in(args[0], module.padding_idx):
                self.padding.append((layer, f"padding_idx={module.padding_idx}", args[0].shape))

        return hook

    def _leaving(self, layer: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._note(layer, module, "output", output)
            if _time_first(module) is not None:
                self._time_first.pop()

        return hook

    def _note(self, layer: str, module: nn.Module, side: str, value: Any) -> None:
        time_first = bool(self._time_first) and self._time_first[-1]
        for place, tensor in enumerate(_tensors(value)):
            if tensor.is_nested:
                continue
            word = layout_told(module, side, tensor.shape, place, time_first=time_first)
            self._seen.append(Seen(layer, side, self._calls[layer], self._number(tensor), tensor.shape, word))

    def layout(self, path: LayerPath, target: str, shape: torch.Size) -> str | None:
        """Return the layout of a tapped tensor, None if nothing tells, or layers contradict each other.

        What gave the very tensor (for "input:PATH", what takes it) says it, or else what takes (gives) it; or the
        layers that gave or took tensors of the same shape, where they agree; or the nearest one before and after, by
        the number of channels. Maps of a model in which nothing says anything are [B, C, H, W].

        Args:
            path: of the tap.
            target: its canonical layer.
            shape: of what was tapped.
        """
        if not 2 < len(shape) <= MOST:
            return "BC" if len(shape) == 2 else None
        place = self._place(path, target, shape)
        given, taken = (None, None) if place is None else self._words_of_the_tensor(place)
        if path.side == "input" and given and taken and given != taken:
            return None
        exact = given or taken
        if exact is not None:
            return exact
        here = self._last_of(target) if place is None else place
        alike = {seen.word for seen in self._seen if seen.word is not None and seen.shape == shape}
        if alike:
            return alike.pop() if len(alike) == 1 else None
        before = [seen for seen in self._seen[: here + 1] if seen.word is not None]
        after = [seen for seen in self._seen[here + 1 :] if seen.word is not None and seen.side == "input"]
        found = {_as_near(shape, seen) for seen in (*before[-1:], *after[:1])} - {None}
        if found:
            return found.pop() if len(found) == 1 else None
        return layout_of(len(shape), 1) if not before and len(shape) >= MAPS else None

    def turned(self, layer: str, call: int, shape: torch.Size, otherwise: str) -> torch.Size:
        """Return the shape of what a layer gave as methods see it; `otherwise` is its layout where nothing tells."""
        return canonical_shape(shape, self.layout(parse(f"{layer}#{call}"), layer, shape) or otherwise)

    def _place(self, path: LayerPath, target: str, shape: torch.Size) -> int | None:
        """Return when the tapped tensor was seen."""
        for place, seen in enumerate(self._seen):
            if (seen.layer, seen.side, seen.call, seen.shape) == (target, path.side, path.call or 1, shape):
                return place
        return None

    def _last_of(self, target: str) -> int:
        """Return when a layer, or a part of it, was last seen: for a result that is an object with tensors in it."""
        inside = f"{target}." if target else ""
        places = [n for n, seen in enumerate(self._seen) if seen.layer == target or seen.layer.startswith(inside)]
        return places[-1] if places else len(self._seen) - 1

    def _words_of_the_tensor(self, here: int) -> tuple[str | None, str | None]:
        """Return what the layers say that gave, and that took, the very tensor."""
        tensor = self._seen[here].tensor
        same = [seen for seen in self._seen if seen.tensor == tensor and seen.word is not None]
        given = [seen.word for seen in same if seen.side == "output"]
        taken = [seen.word for seen in same if seen.side == "input"]
        return (given[0] if given else None), (taken[0] if taken else None)


def _ends_in(tokens: Any, padding: int | None) -> bool:
    """Whether some samples of tokens [B, N] end, or begin, with padding, and none has it in between."""
    if padding is None or not isinstance(tokens, Tensor) or tokens.dim() != 2 or tokens.is_meta:
        return False
    padded = (tokens == padding).long()
    if not bool(padded.any()) or bool(padded.all(1).any()):
        return False
    return any(bool((side.cummin(1).values == side).all()) for side in (padded, padded.flip(1)))


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in what a layer takes or gives, without making anew a tuple of a class of the user's own."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, tuple, list)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)


def _as_near(shape: torch.Size, seen: Seen) -> str | None:
    """Return the layout of a tensor by one near to it, of another shape.

    Channels joined or split leave all other sizes; tokens taken away or added leave the channels; else the width must
    be found at one end alone.
    """
    word = seen.word or ""
    axis = word.index("C")
    if len(seen.shape) == len(shape):
        differ = {other for other in range(len(shape)) if seen.shape[other] != shape[other]}
        if differ == {axis} or axis not in differ:
            return word
    ends = [end for end in (1, len(shape) - 1) if shape[end] == seen.shape[axis]]
    return layout_of(len(shape), ends[0]) if len(ends) == 1 else None


def _time_first(module: nn.Module) -> bool | None:
    """Whether a layer has the batch second in what it takes and gives; None of a layer that does not say."""
    inner: Any = module
    if isinstance(inner, (nn.TransformerEncoder, nn.TransformerDecoder)):
        inner = next(iter(inner.layers), None)
    if isinstance(inner, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
        inner = inner.self_attn
    if isinstance(inner, (nn.MultiheadAttention, nn.RNNBase, nn.Transformer)):
        return not inner.batch_first
    return None


def layout_told(module: nn.Module, side: str, shape: torch.Size, place: int, *, time_first: bool) -> str | None:
    """Return the layout that a layer says a tensor has which it takes or gives, None if it says nothing.

    Args:
        module: the layer.
        side: "input" or "output".
        shape: of the tensor.
        place: of the tensor among those that it takes or gives.
        time_first: whether it is part of one that has the batch second.

    Example:
        >>> layout_told(nn.Conv2d(3, 8, 1), "output", torch.Size([2, 8, 5, 5]), 0, time_first=False)
        'BCHW'
        >>> layout_told(nn.LayerNorm(8), "output", torch.Size([2, 5, 5, 8]), 0, time_first=False)
        'BHWC'
    """
    dimensions = len(shape)
    if not 1 < dimensions <= MOST:
        return None
    batch = 1 if time_first and dimensions == 3 else 0
    last, first = layout_of(dimensions, dimensions - 1, batch=batch), layout_of(dimensions, 1)
    if isinstance(module, nn.RNNBase):
        return None if dimensions != 3 else last if place == 0 else "NBC"  # the final states are [layers, B, C]
    if isinstance(module, nn.MultiheadAttention):
        return last if dimensions == 3 and (side == "input" or place == 0) else None
    if isinstance(module, _TRANSFORMERS):
        is_tokens = dimensions == 3 and (side == "output" or shape[-1] == _model_width(module))
        return last if is_tokens else None
    return _told_by_channels(module, side, shape, first, last)


def _told_by_channels(module: Any, side: str, shape: torch.Size, first: str, last: str) -> str | None:
    """Return what a layer says by its number of channels, or of features."""
    kernel = getattr(module, "kernel_size", None)
    if isinstance(kernel, tuple) and hasattr(module, "in_channels") and hasattr(module, "out_channels"):
        return first if len(shape) == len(kernel) + 2 else None
    if isinstance(module, (_NormBase, nn.GroupNorm, nn.LocalResponseNorm, nn.Upsample, nn.PixelShuffle)):
        return first
    pooling = _POOLING.search(type(module).__name__)
    if pooling:
        return first if len(shape) == int(pooling[1]) + 2 else None
    if hasattr(module, "in_features") and hasattr(module, "out_features") and hasattr(module, "weight"):
        return last if shape[-1] == (module.in_features if side == "input" else module.out_features) else None
    if isinstance(module, nn.Embedding):
        return last if side == "output" else None
    normalized = getattr(module, "normalized_shape", None)
    if normalized is not None:
        if len(normalized) != 1:
            return None
        if type(module) in (nn.LayerNorm, nn.RMSNorm):  # a class made of one may have its channels first
            return last
    return _told_by_parameters(module, side, shape, first, last)


def _told_by_parameters(module: nn.Module, side: str, shape: torch.Size, first: str, last: str) -> str | None:
    """Return what an unknown layer's own vectors (a scale, a bias) say, where they fit one end alone."""
    if side == "input" or next(module.children(), None) is not None:
        return None
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    widths = {vector.shape[0] for vector in own if vector.dim() == 1 and vector.shape[0] > 1}
    fits = [word for word in dict.fromkeys((first, last)) if shape[word.index("C")] in widths]
    return fits[0] if len(fits) == 1 else None


def _model_width(module: Any) -> int:
    if isinstance(module, nn.Transformer):
        return int(module.d_model)
    layer = module.layers[0] if isinstance(module, (nn.TransformerEncoder, nn.TransformerDecoder)) else module
    return int(layer.self_attn.embed_dim)
