"""The signals of all terms of a step over all ranks: whatever they gather goes in one exchange, and so its gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor
from torch.nn.functional import pad

from congruence.core.devices import on_tensors
from congruence.core.gathering import gather_all
from congruence.core.host_values import note_row_values
from congruence.core.numerics import as_float64
from congruence.core.ranks import HostExchange
from congruence.distiller.bindings import Binding
from congruence.distiller.dense import weighed
from congruence.distiller.signals import without_gradient
from congruence.methods.loss_method import LossMethod
from congruence.methods.method import Method, Signals


class _Together:
    """Tensors that are gathered in one exchange, each once: terms that read the same tap share its rows."""

    def __init__(self) -> None:
        self._own: dict[int, Tensor] = {}  # by the id of the tensor, which is kept alive so that it stays unique
        self._counts: dict[int, Sequence[int] | None] = {}
        self._whole: dict[int, Tensor] = {}

    def add(self, tensor: Tensor, counts: Sequence[int] | None = None) -> None:
        """Note a tensor, and how many rows of it every rank has if that differs."""
        self._own.setdefault(id(tensor), tensor)
        self._counts.setdefault(id(tensor), counts)

    def gather(self) -> None:
        """Exchange the rows of everything that was added; tensors of several devices in one exchange each."""
        for device in dict.fromkeys(tensor.device for tensor in self._own.values()):
            keys = [key for key, tensor in self._own.items() if tensor.device == device]
            whole = gather_all([self._own[key] for key in keys], [self._counts[key] for key in keys])
            self._whole.update(zip(keys, whole, strict=True))

    def whole(self, tensor: Tensor) -> Tensor:
        """Return the rows of all ranks of a tensor that was added."""
        return self._whole[id(tensor)]


def over_all_ranks(
    bindings: Mapping[str, Binding], of_rank: Mapping[str, Signals], exchange: HostExchange
) -> dict[str, Signals]:
    """Return what each method's loss sees: the rows of all ranks, with scope "sample" only its own.

    A method of this scope that has a memory gets the rows of all ranks beside them, without gradient.

    Where the loss is known to be a mean over rows of logits that count, a rank keeps its own, and their part of all.

    Args:
        bindings: of the terms, by name.
        of_rank: the signals of this rank's samples, by term, in the same order on every rank.
        exchange: between the hosts of the ranks, for sizes that they may have differently, such as numbers of
            positions. Nothing is exchanged where no term has such.
    """
    together, own = _Together(), dict(of_rank)
    means = [name for name in own if _is_weighed(bindings[name].method, own[name])]
    gathering = [name for name in own if name not in means and bindings[name].method.needs.gathers]
    beside = {name: own[name] for name in gathering if bindings[name].method.needs.scope == "sample"}
    own |= {name: without_gradient(signals) for name, signals in beside.items()}
    sizes = {name: _sizes(own[name]) for name in gathering}
    by_rank = exchange([size for of_term in sizes.values() for size in of_term]) if any(sizes.values()) else []
    of_ranks = iter(zip(*by_rank, strict=True))
    for name in gathering:
        found = [next(of_ranks) for _ in sizes[name]]
        if own[name].dense:
            for tensor, counts in zip(_tensors(own[name]), found, strict=True):
                together.add(tensor, counts)
        else:
            own[name] = _padded_alike(own[name], [max(each) for each in found])
            for tensor in _tensors(own[name]):
                together.add(tensor)
    counted = {name: as_float64(bindings[name].method.counted(own[name])).detach().reshape(1) for name in means}
    for count in counted.values():
        together.add(count)
    together.gather()
    for name in gathering:
        own[name] = _noted(_mapped(own[name], together.whole), own[name])
    own |= {name: replace(signals, all_ranks=own[name]) for name, signals in beside.items()}
    for name, count in counted.items():
        own[name] = weighed(own[name], count.squeeze(0), together.whole(count).sum())
    return own


def _is_weighed(method: Method, signals: Signals) -> bool:
    """Whether a loss is a mean over rows that count, of which ranks may have other numbers: no row need be sent."""
    if signals.dense:
        return method.needs.scope != "batch"
    criterion = method.criterion if isinstance(method, LossMethod) else None
    mean = callable(getattr(criterion, "counted", None)) and getattr(criterion, "reduction", None) == "mean"
    return mean and method.needs.scope == "labelled"


def _tensors(signals: Signals) -> list[Tensor]:
    """Return the tensors that `_mapped` meets, in its order."""
    met: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        met.append(tensor)
        return tensor

    _mapped(signals, note)
    return met


def _sizes(signals: Signals) -> list[int]:
    """Return what ranks may have differently: the rows of dense logits and labels, or the tokens of padded layers."""
    if signals.dense:
        return [len(tensor) for tensor in _tensors(signals)]
    return [tensor.shape[1] for key in signals.masks for tensor in signals.tensors[key]]


def _padded_alike(signals: Signals, longest: Sequence[int]) -> Signals:
    """Return signals with masked tokens padded to one length on all ranks: ranks pad their batches differently."""
    tensors, masks, most = dict(signals.tensors), dict(signals.masks), iter(longest)
    for key, of_layers in signals.masks.items():
        added = [next(most) - tensor.shape[1] for tensor in tensors[key]]
        pairs = list(zip(added, tensors[key], of_layers, strict=True))
        tensors[key] = tuple(pad(t, (0, 0, 0, more)) if m is not None and more else t for more, t, m in pairs)
        masks[key] = tuple(pad(m, (0, more)) if m is not None and more else m for more, _, m in pairs)
    return replace(signals, tensors=tensors, masks=masks)


def _mapped(signals: Signals, function: Callable[[Tensor], Tensor]) -> Signals:
    """Apply a function to every tensor with a row a sample, or a row a position of dense logits."""
    tensors = {key: tuple(map(function, value)) for key, value in signals.tensors.items()}
    labels = None if signals.labels is None else function(signals.labels)
    if signals.dense:
        return replace(signals, tensors=tensors, labels=labels)
    return replace(
        signals,
        tensors=tensors,
        labels=labels,
        index=None if signals.index is None else function(signals.index),
        inputs=on_tensors(function, signals.inputs),
        masks={
            key: tuple(None if mask is None else function(mask) for mask in value)
            for key, value in signals.masks.items()
        },
    )


def _noted(whole: Signals, own: Signals) -> Signals:
    """Note on gathered labels and index the extremes of this rank's, which each rank checks."""
    if not whole.dense:
        for gathered, mine in ((whole.labels, own.labels), (whole.index, own.index)):
            if gathered is not None and mine is not None:
                note_row_values(gathered, mine)
    return whole
