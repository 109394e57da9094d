"""Batches that do not fit in one pass: chunks without gradient, the loss on all rows, then each chunk again.

d loss / d parameters = Σ_chunks (d rows_of_chunk / d parameters)ᵀ · d loss / d rows_of_chunk

The loss sees the rows of the whole batch, so it equals the loss of a single pass, for relational terms too. Activations
between inputs and rows are kept for one chunk at a time. The price is a second forward of the students.
A chunk's second forward repeats its first: same random numbers, modes and buffers. Buffers that the first forward
updated (a batch norm's running statistics) are not updated again. A batch norm in training mode uses the statistics of
the chunk in both passes, and updates its running statistics once for each chunk.
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
from congruence.models.sharded import is_sharded

SIZE: check.Constraint = check.Real(low=1, closed="low", integer=True, optional=True)
Forward = Callable[[Any], tuple[Any, dict[str, Tensor]]]  # inputs → a model's output and its tapped tensors


def in_chunks(run: Forward, model: nn.Module, inputs: Any, size: int | None) -> tuple[Any, dict[str, Tensor]]:
    """Return what `run` gives for the inputs, run over chunks of at most `size` samples, of sizes as equal as possible.

    If gradients are needed, the backward runs the chunks again, one after the other, and gives the gradient of the
    model's parameters. If the output consists of tensors, those with one row for each sample are joined, and others are
    taken from the first chunk. Any other output is returned as a list with one entry for each chunk.

    Raises:
        ValueError: for inputs without tensors, or a tapped tensor without one row for each sample.
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
    if torch.is_grad_enabled() and is_sharded(model):
        got = "a sharded student, whose gradients FSDP does not see in a second pass"
        check.fail("Distiller.capture", "micro_batch", "None for a student that FSDP shards", got)
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
    """The rows of a chunk, and the state that its forward depends on."""

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
        # The second pass runs only if a gradient is needed; otherwise nothing is kept for it.
        self.second_pass = torch.is_grad_enabled() and bool(parameters)
        self.chunks: list[_Chunk] = []
        self.paths: list[str] = []  # paths of the layers that ran in every chunk
        # whether a chunk's graph holds re-entrant checkpointing; decided on the first
        self.reentrant: bool | None = None
        # The tensors of a result that carry gradient: position in the result by identity. One tensor may occur several
        # times (an output that is also tapped), and must get one gradient.
        self.positions: dict[int, int] = {}
        kind = device.type
        self.cast: dict[str, Any] = {"device_type": kind, "dtype": torch.get_autocast_dtype(kind)}
        # The second pass runs inside backward, where the autocast of the first is no longer on. Its cache stays off:
        # older versions of torch would reuse a weight that was cast without gradient.
        self.cast |= {"enabled": torch.is_autocast_enabled(kind), "cache_enabled": False}

    def _forward(self, rows: slice) -> tuple[Any, dict[str, Tensor]]:
        with torch.autocast(**self.cast):
            # Views: `run` gives the model copies, since it may write into its inputs, in both passes alike.
            return self.run(take_rows(self.inputs, rows, self.samples))

    def run_without_gradient(self, count: int) -> list[tuple[Any, dict[str, Tensor]]]:
        """Make the first pass: run every chunk, and record the state that its forward depends on."""
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
        # A layer that is dropped at random in one chunk has no rows for its samples, and counts as not run.
        self.paths = [path for path in results[0][1] if all(path in values for _, values in results)]
        for path in self.paths:
            _check_sizes(path, [values[path].shape for _, values in results])
        return [(output, self._kept(values)) for output, values in results]

    @contextlib.contextmanager
    def _naming_parts(self, rows: slice) -> Iterator[None]:
        """Raise a clear error if a model fails on a part of a batch because tensors differ in their number of rows."""
        try:
            yield
        except (RuntimeError, IndexError) as error:
            others = sorted({len(tensor) for tensor in tensors(self.inputs) if tensor.dim()} - {self.samples})
            if not others:
                raise
            raise ValueError(
                f"`micro_batch` needs inputs with one row for each sample: of tensors with {self.samples} and "
                f"{', '.join(map(str, others))} rows it took rows {rows.start} to {rows.stop} of the former, and the "
                f"model failed on these ({' '.join(str(error).split())})."
            ) from error

    def _kept(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {path: values[path] for path in self.paths}

    def join(self, results: list[tuple[Any, dict[str, Tensor]]]) -> tuple[Any, dict[str, Tensor]]:
        """Return the rows of all chunks; their backward runs the chunks again."""
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
            # In the graph, the rows depend on the parameters directly. They are passed in a list to hide them from
            # autograd: rows of the first pass have no graph.
            rows = _Rows.apply(self, [whole[identity] for identity in self.positions], *self.parameters)
            whole |= zip(self.positions, rows, strict=True)
        output, values = on_tensors(lambda tensor: whole[id(tensor)], results[0])
        return (output if tensors(output) else [output for output, _ in results]), values

    def gradients(self, of_rows: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Make the second pass: return Σ_chunks (∂rows/∂parameters)ᵀ · ∂loss/∂rows, one chunk's graph at a time."""
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
        # Modes and buffers are restored here: the chunk's graph holds all that its backward needs.
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
    """The rows of all chunks as a function of the parameters; its backward is the second pass."""

    @staticmethod
    def forward(ctx: Any, passes: _TwoPasses, rows: list[Tensor], *parameters: nn.Parameter) -> tuple[Tensor, ...]:
        ctx.passes = passes
        ctx.set_materialize_grads(False)  # rows that no term reads get None as gradient, not zeros
        return tuple(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise ValueError(
                "`micro_batch` computes gradients in a second pass and keeps no graph of them: a backward with "
                "create_graph=True, or a gradient of the gradient, needs the whole batch at once (micro_batch=None)."
            )
        return None, None, *ctx.passes.gradients(gradients)


def _by_accumulation(
    rows: Sequence[Tensor], parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]
) -> list[Tensor | None]:
    """Return what `torch.autograd.grad` would, by a plain backward, as re-entrant checkpointing needs."""
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
                f"`micro_batch` needs layers that give one row for each sample, got {check.shape(value)} "
                f"for {rows} samples from the layer '{path}'."
            )


def _check_sizes(path: str, shapes: Sequence[torch.Size]) -> None:
    other = next((shape for shape in shapes if shape[1:] != shapes[0][1:]), None)
    if other is not None:
        raise ValueError(
            f"`micro_batch` needs layers of one size, the layer '{path}' gives {list(shapes[0])} for some samples and "
            f"{list(other)} for others (does it cut padding off?): keep the padding (`total_length=` of "
            f"pad_packed_sequence)."
        )


def _saved_buffers(
    model: nn.Module, before: dict[tuple[int, str], _SavedBuffer]
) -> dict[tuple[int, str], _SavedBuffer]:
    """Copy a model's buffers; a buffer whose version has not changed since `before` keeps its earlier copy.

    A batch norm's kernel changes its buffers without a new version, which is harmless: with the batch's statistics it
    does not read the running ones.
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
    """Run a block with the model in the recorded modes and on copies of the recorded buffers.

    The original buffers are put back untouched afterwards: a loss's graph may have saved them.
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
