"""A batch that does not fit in one pass: chunks without gradient, the loss on all rows, and each chunk once more.

d loss / d parameters = Σ_chunks (d rows_of_chunk / d parameters)ᵀ · d loss / d rows_of_chunk

The loss sees the rows of the whole batch, so that it is the loss of one pass, relational or not; the layers between
the inputs and the rows are kept for one chunk at a time. The price is a second forward of the students.

A chunk's second forward is its first one again: the same random numbers, modes and buffers, while the buffers that the
first one moved (a batch norm's running statistics) are not moved twice. A batch norm that uses the batch's statistics
uses its chunk's, in both passes, and moves the running ones once a chunk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from congruence.core import check, rng
from congruence.core.devices import on_tensors, tensors
from congruence.models.forward import version

SIZE: check.Constraint = check.Real(low=1, closed="low", integer=True, optional=True)
Run = Callable[[Any], tuple[Any, dict[str, Tensor]]]  # inputs → a model's output and its tapped tensors


def in_chunks(run: Run, model: nn.Module, inputs: Any, size: int | None) -> tuple[Any, dict[str, Tensor]]:
    """Return what `run` gives for the inputs, run over chunks of at most `size` samples, as equal as can be.

    Where gradient is wanted, the backward runs the chunks again, one after the other, and gives the gradient of the
    model's parameters. Of an output that is made of tensors, those with a row a sample are joined and any other is the
    first chunk's; of any other output the chunks' own are given, in a list.

    Raises:
        ValueError: for inputs without tensors, or a tapped tensor that has not one row a sample.
    """
    check.hyperparameters("Distiller.capture", {"micro_batch": SIZE}, micro_batch=size)
    if size is None:
        return run(inputs)
    found = tensors(inputs)
    if not found or not found[0].dim():
        check.fail(
            "Distiller.capture", "inputs", "of tensors with a row a sample for micro_batch", type(inputs).__name__
        )
    samples = found[0].shape[0]
    if samples <= size:
        return run(inputs)
    parameters = [p for p in model.parameters() if p.requires_grad]
    again = _Again(run, model, inputs, samples, found[0].device, parameters)
    return again.joined(again.first(-(-samples // size)))


@dataclass(frozen=True)
class _Kept:
    """A buffer before a chunk's first pass."""

    module: nn.Module
    name: str
    buffer: Tensor
    version: int
    copy: Tensor


@dataclass(frozen=True)
class _Chunk:
    """The rows of a chunk, and what its forward depends on beside them."""

    rows: slice
    generators: dict[str, Any]
    buffers: Sequence[_Kept]


class _Again:
    """The two passes of one model over one batch."""

    def __init__(
        self,
        run: Run,
        model: nn.Module,
        inputs: Any,
        samples: int,
        device: torch.device,
        parameters: list[nn.Parameter],
    ) -> None:
        self.run, self.model, self.inputs, self.samples = run, model, inputs, samples
        self.parameters = parameters
        self.modes = [(module, module.training) for module in model.modules()]
        self.keep = torch.is_grad_enabled() and bool(parameters)
        self.chunks: list[_Chunk] = []
        self.shared: dict[int, int] = {}  # the tensors with gradient: their places in a result, by id in the first one
        kind = device.type
        self.cast: dict[str, Any] = {"device_type": kind, "dtype": torch.get_autocast_dtype(kind)}
        self.cast |= {"enabled": torch.is_autocast_enabled(kind), "cache_enabled": False}

    def _forward(self, rows: slice) -> tuple[Any, dict[str, Tensor]]:
        # Without autocast's cache: older torches use a weight cast without gradient where it is wanted, too.
        with torch.autocast(**self.cast):
            return self.run(on_tensors(lambda t: self._rows(t, rows), self.inputs))

    def _rows(self, tensor: Tensor, rows: slice) -> Tensor:
        """Return a copy, which a model may change in place in both passes."""
        return (tensor[rows] if tensor.dim() and len(tensor) == self.samples else tensor).clone()

    def first(self, count: int) -> list[tuple[Any, dict[str, Tensor]]]:
        """Run every chunk without gradient."""
        results: list[tuple[Any, dict[str, Tensor]]] = []
        before: dict[tuple[int, str], _Kept] = {}
        ends = [self.samples * number // count for number in range(count + 1)]
        for rows in map(slice, ends, ends[1:]):
            if self.keep:
                before = _buffers(self.model, before)
            self.chunks.append(_Chunk(rows, rng.get_state() if self.keep else {}, list(before.values())))
            with torch.no_grad():
                results.append(self._forward(rows))
            _check_rows(results[-1][1], rows.stop - rows.start)
        return results

    def joined(self, results: list[tuple[Any, dict[str, Tensor]]]) -> tuple[Any, dict[str, Tensor]]:
        """Return the rows of all chunks, with a gradient that runs the chunks again."""
        whole: dict[int, Tensor] = {}
        for place, parts in enumerate(zip(*map(tensors, results), strict=True)):
            name = id(parts[0])
            if name in whole:
                continue
            sizes = [chunk.rows.stop - chunk.rows.start for chunk in self.chunks]
            rowed = all(part.dim() and len(part) == size for part, size in zip(parts, sizes, strict=True))
            whole[name] = torch.cat(parts) if rowed else parts[0]
            if self.keep and rowed and parts[0].is_floating_point():
                self.shared[name] = place
        if self.shared:
            rows = _Rows.apply(self, [whole[name] for name in self.shared], *self.parameters)
            whole |= zip(self.shared, rows, strict=True)
        output, values = on_tensors(lambda tensor: whole[id(tensor)], results[0])
        return (output if tensors(output) else [output for output, _ in results]), values

    def gradients(self, of_rows: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the parameters' gradients, from those of the shared tensors."""
        total: list[Tensor | None] = [None] * len(self.parameters)
        with rng.untouched():
            for chunk in self.chunks:
                for place, gradient in enumerate(self._of_chunk(chunk, of_rows)):
                    before = total[place]
                    total[place] = gradient if before is None else before if gradient is None else before + gradient
        return total

    def _of_chunk(self, chunk: _Chunk, of_rows: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        rng.set_state(chunk.generators)
        with _as_before(self.modes, chunk.buffers), torch.enable_grad():
            found = tensors(self._forward(chunk.rows))
        pairs = [
            (found[place], gradient[chunk.rows])
            for place, gradient in zip(self.shared.values(), of_rows, strict=True)
            if gradient is not None and found[place].requires_grad
        ]
        if not pairs:
            return [None] * len(self.parameters)
        rows, gradients = zip(*pairs, strict=True)
        return torch.autograd.grad(rows, self.parameters, gradients, allow_unused=True)


class _Rows(torch.autograd.Function):
    """The rows of all chunks as a function of the parameters, whose backward runs the chunks again."""

    @staticmethod
    def forward(ctx: Any, again: _Again, rows: list[Tensor], *parameters: nn.Parameter) -> tuple[Tensor, ...]:
        ctx.again = again
        ctx.set_materialize_grads(False)
        return tuple(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        return None, None, *ctx.again.gradients(gradients)


def _check_rows(values: dict[str, Tensor], rows: int) -> None:
    for path, value in values.items():
        if not value.dim() or len(value) != rows:
            raise ValueError(
                f"`micro_batch` needs layers that give a row a sample, the layer '{path}' gives {check.shape(value)} "
                f"for {rows} samples."
            )


def _buffers(model: nn.Module, before: dict[tuple[int, str], _Kept]) -> dict[tuple[int, str], _Kept]:
    """Copy a model's buffers; a buffer of which no change has been counted since `before` keeps its copy.

    A batch norm's kernel counts none, and needs none: with the batch's statistics it does not read the running ones.
    """
    found = {}
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is None:
                continue
            kept = before.get((id(module), name))
            if kept is None or kept.buffer is not buffer or kept.version != version(buffer):
                kept = _Kept(module, name, buffer, version(buffer), buffer.detach().clone())
            found[id(module), name] = kept
    return found


@contextlib.contextmanager
def _as_before(modes: Sequence[tuple[nn.Module, bool]], buffers: Sequence[_Kept]) -> Iterator[None]:
    """Hold a model in its modes of then, on copies of its buffers of then.

    The buffers themselves are put back unwritten: a loss's graph may have saved them.
    """
    now = [(module, module.training) for module, _ in modes]
    own = [kept.module._buffers[kept.name] for kept in buffers]
    try:
        for module, training in modes:
            module.training = training
        for kept in buffers:
            kept.module._buffers[kept.name] = kept.copy.clone()
        yield
    finally:
        for kept, buffer in zip(buffers, own, strict=True):
            kept.module._buffers[kept.name] = buffer
        for module, training in now:
            module.training = training
