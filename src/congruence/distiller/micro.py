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

from congruence.core import check, rng
from congruence.core.devices import on_tensors, row_count, take_rows, tensors
from congruence.core.graph import checkpoints_reentrantly
from congruence.models.evaluating import modes_of, set_modes
from congruence.models.forward import version

SIZE: check.Constraint = check.Real(low=1, closed="low", integer=True, optional=True)
Forward = Callable[[Any], tuple[Any, dict[str, Tensor]]]  # inputs → a model's output and its tapped tensors


def in_chunks(run: Forward, model: nn.Module, inputs: Any, size: int | None) -> tuple[Any, dict[str, Tensor]]:
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
    of_inputs = tensors(inputs)
    samples = row_count(inputs)
    if samples is None:
        check.fail(
            "Distiller.capture", "inputs", "of tensors with a row a sample for micro_batch", type(inputs).__name__
        )
    if samples <= size:
        return run(inputs)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in of_inputs):
        got = "a tensor that wants some, which a second pass over chunks cannot give"
        check.fail("Distiller.capture", "inputs", "without gradient for micro_batch", got)
    parameters = [p for p in model.parameters() if p.requires_grad]
    passes = _TwoPasses(run, model, inputs, samples, of_inputs[0].device, parameters)
    return passes.join(passes.run_without_gradient(-(-samples // size)))


@dataclass(frozen=True)
class _SavedBuffer:
    """A buffer as it was before a chunk's first pass."""

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
    buffers: Sequence[_SavedBuffer]


class _TwoPasses:
    """The two passes of one model over one batch."""

    def __init__(
        self,
        run: Forward,
        model: nn.Module,
        inputs: Any,
        samples: int,
        device: torch.device,
        parameters: list[nn.Parameter],
    ) -> None:
        self.run, self.model, self.inputs, self.samples = run, model, inputs, samples
        self.parameters = parameters
        self.modes = modes_of(model)
        # A second pass comes only where a gradient will be asked for; without it nothing need be remembered.
        self.second_pass = torch.is_grad_enabled() and bool(parameters)
        self.chunks: list[_Chunk] = []
        self.paths: list[str] = []  # the layers that ran in every chunk
        self.reentrant: bool | None = None  # whether a chunk's graph holds re-entrant checkpointing; seen in its first
        # The tensors of a result that carry gradient: position in the result by identity. One tensor may stand in it
        # several times (an output that is also tapped), and must have one gradient.
        self.positions: dict[int, int] = {}
        kind = device.type
        self.cast: dict[str, Any] = {"device_type": kind, "dtype": torch.get_autocast_dtype(kind)}
        # The second pass runs inside backward, where the autocast of the first is no longer on. Its cache stays off:
        # older torches use a weight that was cast without gradient where it is wanted, too.
        self.cast |= {"enabled": torch.is_autocast_enabled(kind), "cache_enabled": False}

    def _forward(self, rows: slice) -> tuple[Any, dict[str, Tensor]]:
        with torch.autocast(**self.cast):
            # Views: `run` gives the model copies, since it may write into its inputs, in both passes alike.
            return self.run(take_rows(self.inputs, rows, self.samples))

    def run_without_gradient(self, count: int) -> list[tuple[Any, dict[str, Tensor]]]:
        """Make the first pass: run every chunk, and note what its forward depends on beside its rows."""
        results: list[tuple[Any, dict[str, Tensor]]] = []
        saved: dict[tuple[int, str], _SavedBuffer] = {}
        ends = [self.samples * number // count for number in range(count + 1)]
        for rows in map(slice, ends, ends[1:]):
            if self.second_pass:
                saved = _saved_buffers(self.model, saved)
            self.chunks.append(_Chunk(rows, rng.get_state() if self.second_pass else {}, list(saved.values())))
            with torch.no_grad(), self._naming_parts(rows):
                results.append(self._forward(rows))
            _check_rows(results[-1][1], rows.stop - rows.start)
        # A layer that drops out at random in one chunk has no row for its samples: it did not run.
        self.paths = [path for path in results[0][1] if all(path in values for _, values in results)]
        for path in self.paths:
            _check_sizes(path, [values[path].shape for _, values in results])
        return [(output, self._kept(values)) for output, values in results]

    @contextlib.contextmanager
    def _naming_parts(self, rows: slice) -> Iterator[None]:
        """Say in one sentence where a model cannot take a part of a batch whose tensors are not all of its rows."""
        try:
            yield
        except (RuntimeError, IndexError) as error:
            others = sorted({len(tensor) for tensor in tensors(self.inputs) if tensor.dim()} - {self.samples})
            if not others:
                raise
            raise ValueError(
                f"`micro_batch` needs inputs with a row a sample: of tensors with {self.samples} and "
                f"{', '.join(map(str, others))} rows it took rows {rows.start} to {rows.stop} of the former, which the "
                f"model cannot take ({' '.join(str(error).split())})."
            ) from error

    def _kept(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {path: values[path] for path in self.paths}

    def join(self, results: list[tuple[Any, dict[str, Tensor]]]) -> tuple[Any, dict[str, Tensor]]:
        """Return the rows of all chunks, with a gradient that runs the chunks again."""
        sizes = [chunk.rows.stop - chunk.rows.start for chunk in self.chunks]
        whole: dict[int, Tensor] = {}
        for position, parts in enumerate(zip(*map(tensors, results), strict=True)):
            identity = id(parts[0])
            if identity in whole:
                continue
            rowed = all(part.dim() and len(part) == size for part, size in zip(parts, sizes, strict=True))
            rowed = rowed and len({part.shape[1:] for part in parts}) == 1
            whole[identity] = torch.cat(parts) if rowed else parts[0]
            if self.second_pass and rowed and parts[0].is_floating_point():
                self.positions[identity] = position
        if self.positions:
            # The rows become a function of the parameters alone: what lies between them is not in the graph.
            # In a list, so that autograd does not see them: rows of the first pass have no graph to go back through.
            rows = _Rows.apply(self, [whole[identity] for identity in self.positions], *self.parameters)
            whole |= zip(self.positions, rows, strict=True)
        output, values = on_tensors(lambda tensor: whole[id(tensor)], results[0])
        return (output if tensors(output) else [output for output, _ in results]), values

    def gradients(self, of_rows: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Make the second pass: return Σ_chunks (∂rows/∂parameters)ᵀ · ∂loss/∂rows, a chunk's graph at a time."""
        total: list[Tensor | None] = [None] * len(self.parameters)
        with rng.untouched():
            for chunk in self.chunks:
                for number, gradient in enumerate(self._of_chunk(chunk, of_rows)):
                    before = total[number]
                    total[number] = gradient if before is None else before if gradient is None else before + gradient
        return total

    def _of_chunk(self, chunk: _Chunk, of_rows: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        rng.set_state(chunk.generators)  # the same dropout masks as in the first pass
        with _as_before(self.modes, chunk.buffers), torch.enable_grad():
            output, values = self._forward(chunk.rows)
            result = tensors((output, self._kept(values)))
        # Modes and buffers are back in place: the graph of the chunk holds what its backward needs.
        pairs = [
            (result[position], gradient[chunk.rows])
            for position, gradient in zip(self.positions.values(), of_rows, strict=True)
            if gradient is not None and result[position].requires_grad
        ]
        if not pairs:
            return [None] * len(self.parameters)
        rows, gradients = zip(*pairs, strict=True)
        if self.reentrant is None:
            self.reentrant = checkpoints_reentrantly(rows)
        if self.reentrant:
            return _by_accumulation(rows, self.parameters, gradients)
        return torch.autograd.grad(rows, self.parameters, gradients, allow_unused=True)


class _Rows(torch.autograd.Function):
    """The rows of all chunks as a function of the parameters, whose backward is the second pass."""

    @staticmethod
    def forward(ctx: Any, passes: _TwoPasses, rows: list[Tensor], *parameters: nn.Parameter) -> tuple[Tensor, ...]:
        ctx.passes = passes
        ctx.set_materialize_grads(False)  # rows that no term reads come as None, not as zeros to go backward from
        return tuple(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise ValueError(
                "`micro_batch` makes its gradients in a second pass, which keeps no graph of them: a backward with "
                "create_graph=True, and a gradient of the gradient, need the batch as a whole (micro_batch=None)."
            )
        return None, None, *ctx.passes.gradients(gradients)


def _by_accumulation(
    rows: Sequence[Tensor], parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]
) -> list[Tensor | None]:
    """Return what `torch.autograd.grad` would: re-entrant checkpointing takes no backward that names its inputs."""
    before = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        torch.autograd.backward(rows, gradients)
        return [parameter.grad for parameter in parameters]
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient


def _check_rows(values: dict[str, Tensor], rows: int) -> None:
    for path, value in values.items():
        if not value.dim() or len(value) != rows:
            raise ValueError(
                f"`micro_batch` needs layers that give a row a sample, the layer '{path}' gives {check.shape(value)} "
                f"for {rows} samples."
            )


def _check_sizes(path: str, shapes: Sequence[torch.Size]) -> None:
    other = next((shape for shape in shapes if shape[1:] != shapes[0][1:]), None)
    if other is not None:
        raise ValueError(
            f"`micro_batch` needs layers of one size, the layer '{path}' gives {list(shapes[0])} for some samples and "
            f"{list(other)} for others, as where it cuts padding off: keep it (`total_length=` of pad_packed_sequence)."
        )


def _saved_buffers(
    model: nn.Module, before: dict[tuple[int, str], _SavedBuffer]
) -> dict[tuple[int, str], _SavedBuffer]:
    """Copy a model's buffers; a buffer of which no change has been counted since `before` keeps its copy.

    A batch norm's kernel counts none, and needs none: with the batch's statistics it does not read the running ones.
    """
    saved = {}
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is None:
                continue
            earlier = before.get((id(module), name))
            if earlier is None or earlier.buffer is not buffer or earlier.version != version(buffer):
                earlier = _SavedBuffer(module, name, buffer, version(buffer), buffer.detach().clone())
            saved[id(module), name] = earlier
    return saved


@contextlib.contextmanager
def _as_before(modes: list[tuple[nn.Module, bool]], saved: Sequence[_SavedBuffer]) -> Iterator[None]:
    """Hold a model in its modes of then, on copies of its buffers of then.

    The buffers themselves are put back unwritten: a loss's graph may have saved them.
    """
    modes_now = [(module, module.training) for module, _ in modes]
    buffers_now = [each.module._buffers[each.name] for each in saved]
    try:
        set_modes(modes)
        for each in saved:
            each.module._buffers[each.name] = each.copy.clone()  # the forward writes it; chunks may share the copy
        yield
    finally:
        for each, buffer in zip(saved, buffers_now, strict=True):
            each.module._buffers[each.name] = buffer
        set_modes(modes_now)
